"""Ranking metrics of a run on held-out events, beside popularity, with 95 % confidence intervals.

Protocols:
  full         the target against all items
  uniform-100  against 100 items drawn uniformly from those the sequence never touched (the SASRec paper's)
  popular-100  against 100 such items drawn by popularity, without replacement (the BERT4Rec paper's)
  labels       no rank: the score of each event against its label (AUC, and of each user, GAUC); the predicted
               probabilities of models that learned from labels too (log-loss; calibration, the mean prediction over
               the mean label)

Intervals are of a bootstrap over users or, where these are not known, over sequences, with all their events to predict.
With the same seed every model's targets are ranked against the same drawn items.

By default --protocol is full; for ranking models, which score items one by one, labels where the model learned from
them, else uniform-100. Events with label 0 are targets of `labels` alone. Under `full`, items of the user's history
cannot be recommended, unless --keep-history is given or the run was trained with data.exclude_history=false. In ranks
ties, NaN and constant scores count against a model; in AUC ties count half.

Example:
  seqrec evaluate --run runs/sasrec --protocol full uniform-100 --json figures.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf.config import check_at_least, check_choice
from seqrec_tf.evaluation.intervals import CUTOFFS, Interval, label_metrics, list_metrics, rank_metrics
from seqrec_tf.evaluation.negatives import NUM_NEGATIVES, POPULAR_PROTOCOL, UNIFORM_PROTOCOL, NegativeSampler
from seqrec_tf.evaluation.targets import Targets
from seqrec_tf.messages import next_command
from seqrec_tf.run_folder import RunFolder, output_file
from seqrec_tf.schema import EXCLUDED, LABELS, PLACE, TARGET, TARGET_LABEL, TOUCHED, USER_ID
from seqrec_tf.writing import write_whole

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder

NEEDS_TENSORFLOW = True

FULL_PROTOCOL, LABELS_PROTOCOL = "full", "labels"
# Of the table: four cells beside the names of metrics and models make 80.
_METRIC_WIDTH, _MODEL_WIDTH, _CELL_WIDTH = 12, 12, 14
PROTOCOLS = (FULL_PROTOCOL, UNIFORM_PROTOCOL, POPULAR_PROTOCOL, LABELS_PROTOCOL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--run", required=True, metavar="RUN", help="folder made by `seqrec train`")
    parser.add_argument("--dataset", metavar="DATASET", help="where the run's dataset is now, if it was moved")
    parser.add_argument(
        "--split", choices=("valid", "test"), default="test", help="of the events to predict (default: test)"
    )
    parser.add_argument("--protocol", nargs="+", action="extend", choices=PROTOCOLS, help="see above")
    parser.add_argument("--keep-history", action="store_true", help="let items of the history be recommended (full)")
    parser.add_argument("--seed", type=int, default=0, help="of sampled items and of the bootstrap")
    parser.add_argument("--batch-size", type=int, default=256, help="histories scored at once (default: 256)")
    parser.add_argument("--json", metavar="FILE", help="write every figure there; - for stdout, instead of the table")


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments, as far as it can be told without TensorFlow."""
    output_file(args.json)
    check_at_least("--batch-size", args.batch_size, 1)
    check_at_least("--seed", args.seed, 0)
    check_keep_history(args.keep_history, args.protocol or [FULL_PROTOCOL])
    run_folder = RunFolder(args.run)
    run_folder.excludes_history(keep_history=args.keep_history)
    path = args.dataset or run_folder.dataset_info["path"]
    if "://" not in path:
        folder = run_folder.open_dataset(args.dataset)
        for protocol in args.protocol or [FULL_PROTOCOL]:
            check_protocol(protocol, folder, args.split)


def check_keep_history(keep_history: bool, protocols: Sequence[str]) -> None:
    """Raise a ValueError where --keep-history is given and no protocol looks at it."""
    if keep_history and FULL_PROTOCOL not in protocols:
        raise ValueError(
            f"--keep-history is of the protocol full, got {', '.join(protocols)}: leave it out, or add --protocol full."
        )


def run(args: argparse.Namespace) -> None:
    """Evaluate a run and popularity, and show one table a protocol."""
    from seqrec_tf.models import PopRec

    json_file = output_file(args.json)
    run_folder = RunFolder(args.run)
    folder = run_folder.open_dataset(args.dataset)
    for protocol in args.protocol or [FULL_PROTOCOL]:
        check_protocol(protocol, folder, args.split)
    model = run_folder.load_model()
    protocols = args.protocol or [default_protocol(model)]
    check_keep_history(args.keep_history, protocols)
    model.freeze_item_table()
    models = {run_folder.config.model_name: model}
    models.setdefault("poprec", PopRec.from_dataset(folder))
    exclude_history = run_folder.excludes_history(keep_history=args.keep_history)
    figures: dict[str, Any] = {
        "split": args.split,
        "exclude_history": exclude_history,
        "seed": args.seed,
        "protocols": {},
    }
    for protocol in protocols:
        results = {
            name: evaluate(
                model,
                folder,
                split=args.split,
                protocol=protocol,
                exclude_history=exclude_history,
                seed=args.seed,
                batch_size=args.batch_size,
            )
            for name, model in models.items()
        }
        figures["protocols"][protocol] = {name: result.to_dict() for name, result in results.items()}
        if args.json != "-":
            sys.stdout.write(table(results, protocol=protocol, split=args.split) + "\n")
    if args.json == "-":
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    elif json_file:
        write_whole(json_file, json.dumps(figures, indent=2) + "\n")
    if args.json != "-":
        name = run_folder.config.model_name.rpartition(".")[2]
        sys.stdout.write(next_command("export", "--run", args.run, "--output", f"models/{name}"))


@dataclasses.dataclass(frozen=True)
class Result:
    """What a model reaches on a split.

    Attributes:
        num_targets: Events predicted.
        num_impossible: Targets that are in the history and so could not be recommended.
        metrics: Figure by name, such as "ndcg@10"; "coverage@k" (share of items in anybody's list) and "popularity@k"
            (mean training events of what is recommended) only under `full`; "cold hr@10" and "cold ndcg@10", of the
            targets that are items without training events, where there are any.
        num_cold: Targets that are items without training events.
        num_short: Targets that a sampled protocol had fewer than 100 items to rank against.
        targets: Each target with its rank; None under `labels`.
    """

    num_targets: int
    num_impossible: int
    metrics: dict[str, Interval]
    num_cold: int = 0
    num_short: int = 0
    targets: Targets | None = dataclasses.field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """This result as JSON-serialisable values; None where a figure is not a number, as JSON has no NaN."""
        figures = {
            name: {part: value if np.isfinite(value) else None for part, value in dataclasses.asdict(interval).items()}
            for name, interval in self.metrics.items()
        }
        counts = ("num_targets", "num_impossible", "num_cold", "num_short")
        return {**{name: getattr(self, name) for name in counts}, "metrics": figures}


def evaluate(
    model: SequenceModel,
    folder: DatasetFolder,
    *,
    split: str = "test",
    protocol: str = FULL_PROTOCOL,
    exclude_history: bool = True,
    seed: int = 0,
    batch_size: int = 256,
) -> Result:
    """Rank every held-out event of a split; where there are labels, every liked one.

    Memory does not grow with users times items: of each target only its rank and, under `full`, a short list is kept.

    Args:
        model: A trained model.
        folder: The dataset.
        split: "valid" or "test".
        protocol: One of `PROTOCOLS`.
        exclude_history: Under `full`, whether items of the history leave the ranking.
        seed: Decides the sampled items and the resamples of the bootstrap.
        batch_size: Histories scored at once.

    Raises:
        ValueError: The protocol is unknown, the split is empty, or nothing in it was liked.
    """
    from seqrec_tf.learning.ranking import multiply_exactly

    check_protocol(protocol, folder, split)
    multiply_exactly()
    with folder.manifest.explaining(folder.manifest.below(split)):
        return _evaluate(
            model, folder, split, protocol, exclude_history=exclude_history, seed=seed, batch_size=batch_size
        )


def _evaluate(
    model: SequenceModel,
    folder: DatasetFolder,
    split: str,
    protocol: str,
    *,
    exclude_history: bool,
    seed: int,
    batch_size: int,
) -> Result:
    """`evaluate`, once the arguments are checked."""
    from seqrec_tf import data
    from seqrec_tf.models.base_batches import liked_batches

    batches = data.evaluation_batches(folder, split, model, batch_size=batch_size, exclude_history=exclude_history)
    rng = np.random.default_rng(seed)
    if protocol == LABELS_PROTOCOL:
        return _scores_against_labels(model, batches, rng)
    ranking: _AmongAll | _AmongDrawn
    if protocol == FULL_PROTOCOL:
        ranking = _AmongAll(model, batches.element_spec)
    else:
        ranking = _AmongDrawn(model, batches.element_spec, NegativeSampler(folder, protocol), seed)
    counts = np.array([0, *folder.item_counts])
    rows = [
        (ranking(inputs, labels), _owners(labels), labels[TARGET].numpy(), labels[PLACE].numpy())
        for inputs, labels in liked_batches(batches, f"split {split} of {folder.path}")
    ]
    rank, owners, item, place = (np.concatenate(column) for column in zip(*rows, strict=True))
    owner, is_cold = np.unique(owners, return_inverse=True)[1], counts[item] == 0
    metrics = rank_metrics(rank, owner, rng=rng)
    lists = np.concatenate(ranking.lists) if ranking.lists else np.zeros([len(rank), 0], np.int32)
    if ranking.lists:
        metrics |= list_metrics(lists, counts, owner, rng=rng)
    if is_cold.any():
        of_cold = rank_metrics(rank[is_cold], owner[is_cold], rng=rng)
        metrics |= {f"cold {name}": of_cold[name] for name in ("hr@10", "ndcg@10")}
    targets = Targets(place=place, owner=owner, item=item, rank=rank, lists=lists)
    return Result(len(rank), ranking.num_impossible, metrics, int(is_cold.sum()), ranking.num_short, targets)


def _owners(labels: dict[str, Any]) -> np.ndarray:
    """Whose each event to predict is: the user or, where these are not known, the number of the sequence."""
    return labels[USER_ID].numpy() if USER_ID in labels else labels[PLACE][:, 0].numpy()


class _AmongAll:
    """Ranks targets among all items, and keeps what is recommended beside them.

    Args:
        model: The model.
        element_spec: The specs of a batch, `(inputs, labels)`.

    Attributes:
        lists: int32 [B, k] of each batch, recommended ids, best first; 0 is none.
        num_impossible: Targets that could not be recommended.
        num_short: 0, as there are always all items.
    """

    num_short = 0

    def __init__(self, model: SequenceModel, element_spec):
        import tensorflow as tf

        from seqrec_tf.learning.ranking import rank_and_recommend

        inputs_spec, labels_spec = element_spec
        length = min(max(CUTOFFS), model.num_items)

        @tf.function(input_signature=[inputs_spec, labels_spec[TARGET], labels_spec[EXCLUDED]])
        def rank(inputs, target, excluded):
            rank, items, scores = rank_and_recommend(model, model.query(inputs), target, excluded, k=length)
            return rank, tf.where(tf.math.is_finite(scores), items, 0)

        self._rank, self._num_items = rank, model.num_items
        self.lists: list[np.ndarray] = []
        self.num_impossible = 0

    def __call__(self, inputs, labels) -> np.ndarray:
        """Ranks of a batch's targets: int32 [B], from 1."""
        rank, items = self._rank(inputs, labels[TARGET], labels[EXCLUDED])
        self.lists.append(items.numpy())
        self.num_impossible += int(np.sum(rank.numpy() > self._num_items))
        return rank.numpy()


class _AmongDrawn:
    """Ranks each target among items that are drawn for it, the same for every model.

    Args:
        model: The model.
        element_spec: The specs of a batch, `(inputs, labels)`.
        sampler: Draws the items.
        seed: Decides the draws.

    Attributes:
        lists: Empty, as nothing is recommended.
        num_impossible: 0, as the history plays no part.
        num_short: Targets for which fewer items than wanted were left to draw.
    """

    lists: tuple[np.ndarray, ...] = ()
    num_impossible = 0

    def __init__(self, model: SequenceModel, element_spec, sampler: NegativeSampler, seed: int):
        import tensorflow as tf

        from seqrec_tf.learning.ranking import rank_among

        inputs_spec, labels_spec = element_spec

        @tf.function(input_signature=[inputs_spec, labels_spec[TARGET], tf.TensorSpec([None, NUM_NEGATIVES], tf.int32)])
        def rank(inputs, target, negatives):
            return rank_among(model, model.query(inputs), target, negatives)

        self._rank, self._sampler, self._seed = rank, sampler, seed
        self.num_short = 0

    def __call__(self, inputs, labels) -> np.ndarray:
        """Ranks of a batch's targets: int32 [B], from 1."""
        drawn_for = zip(labels[TOUCHED].numpy(), labels[PLACE].numpy(), strict=True)
        # By the place in the split, as the order of batches depends on their size and the model's `max_len`.
        negatives = np.stack(
            [self._sampler(touched, np.random.default_rng([self._seed, *place])) for touched, place in drawn_for]
        )
        self.num_short += int(np.sum(negatives[:, -1] == 0))
        return self._rank(inputs, labels[TARGET], negatives).numpy()


def _scores_against_labels(model: SequenceModel, batches, rng: np.random.Generator) -> Result:
    """The scores of all events to predict, liked or not, against their labels."""
    import tensorflow as tf

    inputs_spec, labels_spec = batches.element_spec

    @tf.function(input_signature=[inputs_spec, labels_spec[TARGET]])
    def score_targets(inputs, target):
        return model.score_candidates(model.query(inputs), target[:, None])[:, 0]

    scores, truths, owners = [], [], []
    for inputs, labels in batches:
        scores.append(score_targets(inputs, labels[TARGET]).numpy())
        truths.append(labels[TARGET_LABEL].numpy())
        owners.append(_owners(labels))
    figures = label_metrics(
        np.concatenate(truths),
        np.concatenate(scores).astype(np.float64),
        np.concatenate(owners),
        are_users=USER_ID in labels_spec,
        are_logits=model.gives_probabilities,
        rng=rng,
    )
    return Result(sum(map(len, truths)), 0, figures)


def default_protocol(model: SequenceModel) -> str:
    """That against all items, unless these would be scored one by one."""
    if not model.scores_one_by_one:
        return FULL_PROTOCOL
    return LABELS_PROTOCOL if model.gives_probabilities else UNIFORM_PROTOCOL


def check_protocol(protocol: str, folder: DatasetFolder, split: str) -> None:
    """Raise a ValueError where a split cannot be evaluated by a protocol."""
    check_choice("--protocol", protocol, PROTOCOLS)
    folder.check_split(split)
    if protocol == LABELS_PROTOCOL and LABELS not in folder.schema:
        raise ValueError(f"--protocol labels needs labels, and {folder.path} has none. Prepare it with --label-column.")


def table(results: dict[str, Result], *, protocol: str, split: str) -> str:
    """One table of 80 columns: metrics by cut-offs, each figure with half its interval's width."""
    first = next(iter(results.values()))
    lines = [f"{split}, {protocol}, {first.num_targets:,} events to predict"]
    if first.num_impossible:
        share = first.num_impossible / first.num_targets
        lines.append(
            f"{first.num_impossible:,} targets ({share:.1%}) repeat an item of their history, which is not recommended "
            "again: they count as misses (--keep-history)"
        )
    if first.num_short:
        lines.append(
            f"{first.num_short:,} targets are ranked against fewer than {NUM_NEGATIVES} items: no more are left to draw"
        )
    if first.num_cold:
        lines.append(f"{first.num_cold:,} targets are items without training events: `cold`")
    notes = (wrapped for line in lines for wrapped in textwrap.wrap(line, 80, subsequent_indent="  "))
    return "\n".join([*notes, "", *_grid(results)]) + "\n"


def _grid(results: dict[str, Result]) -> list[str]:
    """The figures, at most 80 characters wide: a row a metric and model, a column a cut-off where it has some."""
    cutoffs: dict[str, list[str]] = {}  # of each metric; "" of those without
    for metric in dict.fromkeys(metric for result in results.values() for metric in result.metrics):
        name, _, cutoff = metric.partition("@")
        cutoffs.setdefault(name, []).append(cutoff)
    columns = sorted(
        {cutoff for of_metric in cutoffs.values() for cutoff in of_metric}, key=lambda text: int(text or 0)
    )
    models = {name: name.rpartition(".")[2][:_MODEL_WIDTH] for name in results}  # of a dotted path, the model
    width = max(map(len, models.values()))
    lines = []
    if any(columns):
        heads = [f"@{cutoff}" if cutoff else "" for cutoff in columns]
        lines.append(" " * (_METRIC_WIDTH + width) + "".join(head.rjust(_CELL_WIDTH) for head in heads))
    for metric, of_metric in cutoffs.items():
        for number, (name, result) in enumerate(results.items()):
            names = {cutoff: f"{metric}@{cutoff}" if cutoff else metric for cutoff in of_metric}
            cells = (_cell(result.metrics.get(names[column]), metric) if column in names else "" for column in columns)
            row = "".join(cell.rjust(_CELL_WIDTH) for cell in cells)
            lines.append(f"{'' if number else metric:<{_METRIC_WIDTH}}{models[name]:<{width}}{row}".rstrip())
    return lines


def _cell(interval: Interval | None, metric: str) -> str:
    """A figure with half the width of its interval; of popularity, which counts events, fewer digits."""
    if interval is None:
        return "-"
    half = (interval.high - interval.low) / 2
    if metric == "popularity":
        digits = 1 if interval.value < 1000 else 0
        return f"{interval.value:,.{digits}f} ±{half:,.{digits}f}"
    return f"{interval.value:.4f} ±{f'{half:.4f}'.removeprefix('0')}"
