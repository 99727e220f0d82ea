"""What is in a dataset, what looks wrong, and whether the order of events says anything.

Order is tested as in "Does It Look Sequential?" (Klenitskiy et al., RecSys 2024): the events of each sequence are
shuffled, several times. Frequent pairs and triples of neighbours (in --min-support sequences or more) should then be
gone; a model trained on the true order (--run) should rank the next item worse, and recommend other items, when it is
given a shuffled history. Where little changes, a model of sequences has little to learn from the order.

Example:
  seqrec analyze --dataset shop --run runs/sasrec --html shop.html
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf.config import check_at_least
from seqrec_tf.evaluation.audits import describe, neighbours
from seqrec_tf.messages import next_command
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import RunFolder, output_file
from seqrec_tf.writing import write_whole

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel

NEEDS_TENSORFLOW = True

# Cut-off of the metrics of a model on shuffled histories.
_K = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--dataset", required=True, metavar="DATASET", help="folder made by `seqrec prepare`")
    parser.add_argument("--run", metavar="RUN", help="a run of a sequential model on it, to try shuffled histories on")
    parser.add_argument("--split", choices=("valid", "test"), help="of the events that --run predicts (default: test)")
    parser.add_argument(
        "--shuffles", type=int, default=5, help="times that the order is shuffled (default %(default)s)"
    )
    parser.add_argument(
        "--min-support", type=int, default=5, help="sequences that make a pair frequent (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffles")
    parser.add_argument("--json", metavar="FILE", help="write every figure there; - for stdout, instead of the text")
    parser.add_argument("--html", metavar="FILE", help="write a page of charts there, which opens without a server")


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments, as far as it can be told without TensorFlow."""
    check_at_least("--shuffles", args.shuffles, 1)
    check_at_least("--min-support", args.min_support, 1)
    check_at_least("--seed", args.seed, 0)
    output_file(args.json)
    output_file(args.html, "--html")
    if args.split and not args.run:
        raise ValueError("--split is of the events that a model predicts: it needs --run.")
    run_folder = RunFolder(args.run) if args.run else None
    if "://" not in args.dataset:
        folder = DatasetFolder(args.dataset)
        if run_folder:
            folder.check_split(args.split or "test")
            run_folder.open_dataset(args.dataset)


def run(args: argparse.Namespace) -> None:
    """Analyse a dataset, with a model where there is a run, and show what was found."""
    json_file, page = output_file(args.json), output_file(args.html, "--html")
    folder = DatasetFolder(args.dataset)
    model, exclude_history = None, True
    if args.run:
        folder.check_split(args.split or "test")
        run_folder = RunFolder(args.run)
        run_folder.open_dataset(args.dataset)  # makes sure that it was trained on it
        model, exclude_history = run_folder.load_model(), run_folder.config.data.exclude_history
        model.freeze_item_table()
    with folder.manifest.explaining():
        figures = _figures(args, folder, model, exclude_history=exclude_history)
    text = json.dumps(figures, indent=2) + "\n"
    if json_file:
        write_whole(json_file, text)
    if page:
        from seqrec_tf.report import write_dataset_report

        write_dataset_report(folder, page, figures)
    if args.json == "-":
        sys.stdout.write(text)
        return
    sys.stdout.write(report(figures))
    if args.run:
        sys.stdout.write(next_command("evaluate", "--run", args.run))
    else:
        sys.stdout.write(next_command("train", "--dataset", args.dataset, "--model", "sasrec", "--output", "RUN"))


def _figures(
    args: argparse.Namespace, folder: DatasetFolder, model: SequenceModel | None, *, exclude_history: bool
) -> dict[str, Any]:
    """All that the arguments ask for; `exclude_history` as the model was trained."""
    rows, items = folder.training_events()
    split = args.split or "test"
    figures = describe(folder, rows, items)
    figures["order"] = neighbours(rows, items, shuffles=args.shuffles, min_support=args.min_support, seed=args.seed)
    if model is not None:
        figures["order"]["model"] = {"name": type(model).__name__, "split": split} | shuffled_histories(
            model,
            folder,
            split=split,
            exclude_history=exclude_history,
            shuffles=args.shuffles,
            seed=args.seed,
        )
    return figures


def shuffled_histories(
    model: SequenceModel, folder: DatasetFolder, *, split: str, exclude_history: bool, shuffles: int, seed: int
) -> dict[str, Any]:
    """What a trained model loses when the histories that it sees are shuffled.

    Returns:
        `ndcg@10` and `hr@10`, each a dict: `true_order`, `shuffled` (mean over the shuffles), `relative_change`;
        `jaccard@10`, how alike the lists of true and shuffled histories are, from 0 to 1.
    """
    import tensorflow as tf

    from seqrec_tf import data
    from seqrec_tf.learning import metrics
    from seqrec_tf.learning.ranking import multiply_exactly, rank_and_recommend
    from seqrec_tf.models.base_batches import liked_batches
    from seqrec_tf.schema import EXCLUDED, ITEM_IDS, PADDING_ID, TARGET

    multiply_exactly()
    k = min(_K, folder.num_items)
    batches = data.evaluation_batches(folder, split, model, batch_size=256, exclude_history=exclude_history)
    inputs_spec, labels_spec = batches.element_spec

    @tf.function(input_signature=[inputs_spec, labels_spec[TARGET], labels_spec[EXCLUDED]])
    def rank_and_list(inputs, target, excluded):
        return rank_and_recommend(model, model.query(inputs), target, excluded, k=k)[:2]

    random = np.random.default_rng(seed)
    ranks: list[list[np.ndarray]] = [[] for _ in range(shuffles + 1)]
    alike = []
    for inputs, labels in liked_batches(batches, f"split {split} of {folder.path}"):
        item_ids = inputs[ITEM_IDS].numpy()  # times stay where they were
        for number in range(shuffles + 1):
            if number:
                # Events to the left, in random order; padding stays to the right.
                order = np.where(item_ids != PADDING_ID, random.random(item_ids.shape), 2.0).argsort(axis=1)
                inputs = inputs | {ITEM_IDS: tf.constant(np.take_along_axis(item_ids, order, axis=1))}
            rank, items = rank_and_list(inputs, labels[TARGET], labels[EXCLUDED])
            ranks[number].append(rank.numpy())
            if not number:
                true_items = items.numpy()
            else:
                common = (items.numpy()[:, :, None] == true_items[:, None, :]).any(axis=2).sum(axis=1)
                alike.append(common / (2 * k - common))
    true, *others = (np.concatenate(parts) for parts in ranks)
    figures: dict[str, Any] = {"targets": len(true)}
    for name, gain in ((f"ndcg@{_K}", metrics.ndcg), (f"hr@{_K}", metrics.hit_rate)):
        value, shuffled = (float(np.mean(gain(part, _K))) for part in (true, np.concatenate(others)))
        change = (shuffled - value) / value if value else None
        figures[name] = {"true_order": value, "shuffled": shuffled, "relative_change": change}
    return figures | {f"jaccard@{_K}": float(np.concatenate(alike).mean())}


def _share(number: int, of: int, what: str) -> str:
    return f"{number:,} of {of:,} {what} ({number / max(of, 1):.1%})"


def report(figures: dict[str, Any]) -> str:
    """The figures in words."""
    sizes, lengths, popularity, audits = (figures[key] for key in ("sizes", "lengths", "popularity", "audits"))
    order = figures["order"]
    lines = [
        f"training      {sizes['sequences']:,} sequences, {sizes['items']:,} items, {sizes['events']:,} events; "
        f"{sizes['density']:.2%} of all pairs of a sequence and an item have an event",
        "lengths       " + ", ".join(f"{name} {value:g}" for name, value in lengths.items()),
        f"popularity    Gini {popularity['gini']:.2f}; the top 1 % of the items have "
        f"{popularity['share_of_top_1%']:.0%} of the training events, the top 10 % "
        f"{popularity['share_of_top_10%']:.0%}",
    ]
    all_events = audits["events_of_all_splits"]
    if audits["ties"]:
        ties = audits["ties"]["events_sharing_a_time_with_a_neighbour"]
        lines.append(f"ties          {_share(ties, all_events, 'events')} share their time with a neighbour")
    if audits["repeats"]:
        repeated = audits["repeats"]["repeated_events"]
        lines.append(
            f"repeats       {_share(repeated, all_events, 'events')} are of an item seen before in the sequence"
        )
    unseen = audits["items_without_training_events"]
    lines.append(f"unseen items  {_share(unseen, sizes['items'], 'items')} have no training events")
    if audits["targets_before_training_ends"] is not None:
        shares = [
            f"{share:.1%} of the {split} targets" for split, share in audits["targets_before_training_ends"].items()
        ]
        lines.append(f"future        {', '.join(shares)} happened before the newest training event")
    for name in ("pairs", "triples"):
        figure = order[name]
        surviving = "" if figure["surviving"] is None else f"; {figure['surviving']:.1%} of the {name} still are"
        lines.append(
            f"{name:<14}{figure['frequent']:,} frequent {name} of neighbours (in {order['min_support']}+ sequences), "
            f"{figure['frequent_shuffled']:,.0f} when shuffled{surviving}"
        )
    lines += [f"warning       {sentence}" for sentence in audits["warnings"]]
    if "model" in order:
        model = order["model"]
        for name in (f"ndcg@{_K}", f"hr@{_K}"):
            figure = model[name]
            change = "" if figure["relative_change"] is None else f" ({figure['relative_change']:+.0%} of the former)"
            lines.append(
                f"{name:<14}{figure['true_order']:.4f} of {model['name']}; {figure['shuffled']:.4f} with shuffled "
                f"histories{change}"
            )
        lines.append(
            f"{f'jaccard@{_K}':<14}{model[f'jaccard@{_K}']:.2f} between the lists of true and shuffled histories"
        )
    return "\n".join(lines) + "\n"
