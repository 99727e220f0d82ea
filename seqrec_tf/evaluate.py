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
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf.config import check_at_least, check_choice
from seqrec_tf.run_folder import RunFolder, output_file, write_whole
from seqrec_tf.schema import LABELS

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder

NEEDS_TENSORFLOW = True

LABELS_PROTOCOL = "labels"
PROTOCOLS = ("full", "uniform-100", "popular-100", LABELS_PROTOCOL)
CUTOFFS = (1, 5, 10, 20)
NUM_NEGATIVES = 100
NUM_RESAMPLES = 1000

# Rounds of draws before what is left is drawn exactly.
_ROUNDS = 20

# Resamples for figures that cost a pass over all recommendations or scores each.
_NUM_LIST_RESAMPLES = 200


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


def run(args: argparse.Namespace) -> None:
    """Evaluate a run and popularity, and show one table a protocol."""
    from seqrec_tf.models import PopRec

    json_file = output_file(args.json)
    check_at_least("--batch-size", args.batch_size, 1)
    run_folder = RunFolder(args.run)
    folder = run_folder.open_dataset(args.dataset)
    for protocol in args.protocol or ["full"]:
        check_protocol(protocol, folder, args.split)
    model = run_folder.load_model()
    protocols = args.protocol or [default_protocol(model)]
    model.freeze_item_table()
    models = {run_folder.config.model_name: model}
    models.setdefault("poprec", PopRec.from_dataset(folder))
    exclude_history = run_folder.config.data.exclude_history and not args.keep_history
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


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Result:
    """What a model reaches on a split.

    Attributes:
        num_targets: Events predicted.
        num_impossible: Of these, targets that are in the history and so could not be recommended.
        metrics: Figure by name, such as "ndcg@10"; "coverage@k" (share of items in anybody's list) and "popularity@k"
            (mean training events of what is recommended) only under `full`; "cold hr@10" and "cold ndcg@10", of the
            targets that are items without training events, where there are any.
        num_cold: Targets that are items without training events.
        num_short: Targets that a sampled protocol had fewer than 100 items to rank against.
    """

    num_targets: int
    num_impossible: int
    metrics: dict[str, Interval]
    num_cold: int = 0
    num_short: int = 0

    def to_dict(self) -> dict[str, Any]:
        """This result as JSON-serialisable values; None where a figure is not a number, as JSON has no NaN."""
        figures = {
            name: {part: value if np.isfinite(value) else None for part, value in dataclasses.asdict(interval).items()}
            for name, interval in self.metrics.items()
        }
        return {**dataclasses.asdict(self), "metrics": figures}


def evaluate(
    model: SequenceModel,
    folder: DatasetFolder,
    *,
    split: str = "test",
    protocol: str = "full",
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
        seed: Of sampled items and of the bootstrap.
        batch_size: Histories scored at once.

    Raises:
        ValueError: The protocol is unknown, the split is empty, or nothing in it was liked.
    """
    import tensorflow as tf

    from seqrec_tf import data
    from seqrec_tf.models.base_batches import EXCLUDED, TARGET, TARGET_LABEL, liked_batches
    from seqrec_tf.ranking import multiply_exactly, rank_among, rank_and_recommend
    from seqrec_tf.schema import USER_ID

    check_protocol(protocol, folder, split)
    multiply_exactly()
    num_items = folder.num_items
    length = min(max(CUTOFFS), num_items)

    batches = data.evaluation_batches(folder, split, model, batch_size=batch_size, exclude_history=exclude_history)
    inputs_spec, labels_spec = batches.element_spec

    @tf.function(input_signature=[inputs_spec, labels_spec[TARGET], labels_spec[EXCLUDED]])
    def rank_full(inputs, target, excluded):
        rank, items, scores = rank_and_recommend(model, model.query(inputs), target, excluded, k=length)
        return rank, tf.where(tf.math.is_finite(scores), items, 0)

    @tf.function(input_signature=[inputs_spec, labels_spec[TARGET], tf.TensorSpec([None, NUM_NEGATIVES], tf.int32)])
    def rank_sampled(inputs, target, negatives):
        return rank_among(model, model.query(inputs), target, negatives)

    @tf.function(input_signature=[inputs_spec, labels_spec[TARGET]])
    def score_targets(inputs, target):
        return model.score_candidates(model.query(inputs), target[:, None])[:, 0]

    owners = []

    def note_owners(labels):
        owners.append(labels[USER_ID].numpy() if USER_ID in labels else labels[data.PLACE][:, 0].numpy())

    rng = np.random.default_rng(seed)
    if protocol == LABELS_PROTOCOL:
        scores, truths = [], []
        for inputs, labels in batches:
            scores.append(score_targets(inputs, labels[TARGET]).numpy())
            truths.append(labels[TARGET_LABEL].numpy())
            note_owners(labels)
        figures = label_metrics(
            np.concatenate(truths),
            np.concatenate(scores).astype(np.float64),
            np.concatenate(owners),
            are_users=USER_ID in labels_spec,
            are_logits=model.gives_probabilities,
            rng=rng,
        )
        return Result(sum(map(len, truths)), 0, figures)
    sampler = _NegativeSampler(folder, protocol) if protocol != "full" else None
    counts = np.array([0, *folder.item_counts])
    ranks, lists, cold = [], [], []
    num_impossible = num_short = 0
    for inputs, labels in liked_batches(batches, f"split {split} of {folder.path}"):
        cold.append(counts[labels[TARGET].numpy()] == 0)
        note_owners(labels)
        if sampler is None:
            rank, items = rank_full(inputs, labels[TARGET], labels[EXCLUDED])
            lists.append(items.numpy())
            num_impossible += int(np.sum(rank.numpy() > num_items))
        else:
            drawn_for = zip(labels[data.TOUCHED].numpy(), labels[data.PLACE].numpy(), strict=True)
            # By the place in the split, as the order of batches depends on their size and the model's `max_len`.
            negatives = np.stack([sampler(touched, np.random.default_rng([seed, *at])) for touched, at in drawn_for])
            num_short += int(np.sum(negatives[:, -1] == 0))
            rank = rank_sampled(inputs, labels[TARGET], negatives)
        ranks.append(rank.numpy())
    rank, is_cold = np.concatenate(ranks), np.concatenate(cold)
    owner = np.unique(np.concatenate(owners), return_inverse=True)[1]
    metrics = rank_metrics(rank, owner, rng=rng)
    if lists:
        metrics |= list_metrics(np.concatenate(lists), counts, owner, rng=rng)
    if is_cold.any():
        of_cold = rank_metrics(rank[is_cold], owner[is_cold], rng=rng)
        metrics |= {f"cold {name}": of_cold[name] for name in ("hr@10", "ndcg@10")}
    return Result(len(rank), num_impossible, metrics, int(is_cold.sum()), num_short)


def default_protocol(model: SequenceModel) -> str:
    """That against all items, unless these would be scored one by one."""
    if not model.scores_one_by_one:
        return "full"
    return LABELS_PROTOCOL if model.gives_probabilities else "uniform-100"


def check_protocol(protocol: str, folder: DatasetFolder, split: str) -> None:
    """Raise a ValueError where a split cannot be evaluated by a protocol."""
    check_choice("--protocol", protocol, PROTOCOLS)
    folder.check_split(split)
    if protocol == LABELS_PROTOCOL and LABELS not in folder.schema:
        raise ValueError(f"--protocol labels needs labels, and {folder.path} has none. Prepare it with --label-column.")


def rank_metrics(ranks: np.ndarray, owners: np.ndarray, *, rng: np.random.Generator) -> dict[str, Interval]:
    """HR, NDCG and MRR at each cut-off, with percentile intervals of a bootstrap of users with their targets.

    All of them depend on the rank alone, and ranks beyond the last cut-off are alike. So where each user has one
    target, to resample users is to draw the histogram of ranks anew, from a multinomial: exactly, at a cost that does
    not grow with their number.

    Args:
        ranks: int [N], 1 is best.
        owners: [N], whose each target is.
        rng: Of the resamples.
    """
    from seqrec_tf import metrics

    beyond = max(CUTOFFS) + 1
    bins = np.minimum(ranks, beyond) - 1
    histogram = np.bincount(bins, minlength=beyond)
    owner = np.unique(owners, return_inverse=True)[1]
    if owner.max() + 1 == len(ranks):
        drawn = rng.multinomial(len(ranks), histogram / len(ranks), size=NUM_RESAMPLES)
    else:
        weights = _resampled(owner, [rng] * NUM_RESAMPLES)
        drawn = np.stack([np.bincount(bins, weights=weight, minlength=beyond) for weight in weights])
    rank = np.arange(1, beyond + 1)
    gains = {}
    for k in CUTOFFS:
        gains[f"hr@{k}"] = metrics.hit_rate(rank, k)
        gains[f"ndcg@{k}"] = metrics.ndcg(rank, k)
        gains[f"mrr@{k}"] = metrics.reciprocal_rank(rank, k)
    table_of_gains = np.stack([gain.numpy() for gain in gains.values()], axis=1).astype(np.float64)  # [ranks, metrics]
    values = histogram @ table_of_gains / len(ranks)
    resamples = drawn @ table_of_gains / drawn.sum(axis=1, keepdims=True)
    low, high = np.percentile(resamples, [2.5, 97.5], axis=0)
    return {name: Interval(*map(float, figures)) for name, *figures in zip(gains, values, low, high, strict=True)}


def _resampled(owner: np.ndarray, generators: Iterable[np.random.Generator]) -> Iterator[np.ndarray]:
    """How often each row is in a sample of as many owners, drawn with replacement: int [N], one for each generator."""
    number = owner.max() + 1
    return (np.bincount(rng.integers(0, number, number), minlength=number)[owner] for rng in generators)


def list_metrics(
    lists: np.ndarray, counts: np.ndarray, owners: np.ndarray, *, rng: np.random.Generator
) -> dict[str, Interval]:
    """Coverage and mean popularity of the recommended lists.

    Their intervals are normal, from the bootstrap's standard error: a resample of users covers fewer items than all
    users do, so that percentiles of the coverage would lie below its value.

    Args:
        lists: int [N, k], recommended ids, best first; 0 is none.
        counts: int [V], training events of each id.
        owners: [N], whom each list is for.
        rng: Of the resamples.
    """
    metrics = {}
    owner = np.unique(owners, return_inverse=True)[1]
    seeds = rng.integers(0, 2**63, _NUM_LIST_RESAMPLES)

    def samples():  # drawn when needed: together they would be many times the lists
        return _resampled(owner, map(np.random.default_rng, seeds))

    for k in (10, 20):
        top = lists[:, :k]
        popularity = counts[top].sum(axis=1) / np.maximum(1, (top > 0).sum(axis=1))

        # The lists that an item is in, item by item: an item is covered where one of them is drawn.
        order = np.argsort(top, axis=None, kind="stable")
        order = order[np.searchsorted(top.ravel(), 1, sorter=order) :]
        item, row = top.ravel()[order], order // top.shape[1]
        first = np.flatnonzero(np.r_[len(item) > 0, item[1:] != item[:-1]])

        def coverage(weight, row=row, first=first):
            return np.logical_or.reduceat((weight > 0)[row], first).sum() / (len(counts) - 1) if len(row) else 0.0

        for name, value, resampled in (
            ("coverage", coverage(np.ones(len(lists))), [coverage(weight) for weight in samples()]),
            ("popularity", popularity.mean(), [weight @ popularity / weight.sum() for weight in samples()]),
        ):
            margin = 1.96 * float(np.std(resampled))
            metrics[f"{name}@{k}"] = Interval(float(value), float(value) - margin, float(value) + margin)
    return metrics


def label_metrics(
    labels: np.ndarray,
    scores: np.ndarray,
    owners: np.ndarray,
    *,
    are_users: bool,
    are_logits: bool,
    rng: np.random.Generator,
) -> dict[str, Interval]:
    """AUC, GAUC and, of logits, log-loss and calibration; intervals from a bootstrap of users with their events.

    Args:
        labels: int [N], 1 or 0.
        scores: float64 [N].
        owners: [N], whose event each is.
        are_users: Whether these are users; else there is no GAUC, as where no user has events of both labels.
        are_logits: Whether a score is the logit of a probability.
        rng: Of the resamples.

    Returns:
        auc: Probability that an event with label 1 scores above one with label 0, equal scores counting half.
        gauc: Mean of the users' own AUC, weighted by their events; users with one kind of label take no part
            (DIN, Section 6.3, eq. 10).
        logloss: Mean of -log of the probability given to the label, nats.
        calibration: Mean predicted probability over the mean label; 1 is best.
    """
    from seqrec_tf import metrics

    user = np.unique(owners, return_inverse=True)[1]
    order = np.argsort(user, kind="stable")
    labels, scores, user = labels[order], scores[order], user[order]
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    sizes = np.diff(np.r_[starts, len(user)])
    num_liked = np.add.reduceat(labels, starts)
    has_both = are_users & (num_liked > 0) & (num_liked < sizes)
    parts = zip(starts[has_both], sizes[has_both], strict=True)
    own = np.array([metrics.auc(labels[a : a + n], scores[a : a + n]) for a, n in parts])
    probabilities = 1.0 / (1.0 + np.exp(-scores))
    with np.errstate(invalid="ignore"):  # of a score that is NaN
        log_losses = np.logaddexp(0.0, np.where(labels == 1, -scores, scores))

    def figures(count):
        """Of a sample that holds user u `count[u]` times."""
        weight = np.repeat(count, sizes).astype(np.float64)
        values = {"auc": metrics.auc(labels, scores, weight=weight)}
        if has_both.any():
            both = count[has_both] * sizes[has_both]
            values["gauc"] = float(both @ own / both.sum()) if both.sum() else float("nan")
        if are_logits:
            values["logloss"] = float(weight @ log_losses / weight.sum())
            values["calibration"] = (
                float(weight @ probabilities / (weight @ labels)) if weight @ labels else float("nan")
            )
        return values

    values = figures(np.ones(len(sizes), np.int64))
    shares = np.full(len(sizes), 1 / len(sizes))
    resampled = [figures(rng.multinomial(len(sizes), shares)) for _ in range(_NUM_LIST_RESAMPLES)]
    intervals = {}
    for name, value in values.items():
        finite = [sample[name] for sample in resampled if np.isfinite(sample[name])] or [np.nan]
        intervals[name] = Interval(value, *map(float, np.percentile(finite, [2.5, 97.5])))
    return intervals


class _NegativeSampler:
    """Draws the items that a target is ranked against, none of which the user ever touched."""

    def __init__(self, folder: DatasetFolder, protocol: str):
        counts = np.asarray(folder.item_counts, np.float64)
        self.weights = counts if protocol == "popular-100" else np.ones(len(counts))
        self.cumulative = np.cumsum(self.weights) / self.weights.sum()
        self.num_drawable = int(np.sum(self.weights > 0))

    def __call__(self, touched: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Distinct ids: int32 [100], filled with 0 where fewer are left.

        Drawing one by one and passing over what was drawn before is sampling without replacement.
        """
        touched = np.unique(touched[touched > 0])
        is_drawable = self.weights[touched - 1] > 0
        wanted = min(NUM_NEGATIVES, self.num_drawable - int(is_drawable.sum()))
        chosen: dict[int, None] = {}
        blocked = set(touched.tolist())
        for _ in range(_ROUNDS):
            if len(chosen) >= wanted:
                break
            for item in (np.searchsorted(self.cumulative, rng.random(2 * NUM_NEGATIVES), side="right") + 1).tolist():
                if item not in blocked and item <= len(self.weights):
                    chosen[item] = None
        ids = list(chosen)[:wanted]
        if len(ids) < wanted:  # what is left is rare: the same draws by the first to come of exponential times
            left = np.setdiff1d(np.flatnonzero(self.weights) + 1, [*blocked, *ids])
            times = rng.exponential(size=len(left)) / self.weights[left - 1]
            ids += left[np.argsort(times)][: wanted - len(ids)].tolist()
        return np.array(ids + [0] * (NUM_NEGATIVES - wanted), np.int32)


def table(results: dict[str, Result], *, protocol: str, split: str) -> str:
    """One readable table: a row a metric, a column a model, each figure with half its interval's width."""
    names = list(results)
    first = next(iter(results.values()))
    lines = [f"{split}, {protocol}, {first.num_targets:,} events to predict"]
    if first.num_impossible:
        share = first.num_impossible / first.num_targets
        lines.append(
            f"{first.num_impossible:,} targets ({share:.1%}) repeat an item of their history, which is not recommended "
            "again: they count as misses (--keep-history)"
        )
    if first.num_short:
        lines.append(f"{first.num_short:,} targets are ranked against fewer than 100 items: no more are left to draw")
    if first.num_cold:
        lines.append(f"{first.num_cold:,} targets are items without training events: `cold`")
    lines.append(f"{'':<14}" + "".join(f"{name:>22}" for name in names))
    for metric in first.metrics:
        cells = []
        for result in results.values():
            if metric not in result.metrics:
                cells.append("-".rjust(22))
                continue
            interval = result.metrics[metric]
            digits = 1 if metric.startswith("popularity") else 4
            half = (interval.high - interval.low) / 2
            cells.append(f"{interval.value:.{digits}f} ± {half:.{digits}f}".rjust(22))
        lines.append(f"{metric:<14}" + "".join(cells))
    return "\n".join(lines) + "\n"
