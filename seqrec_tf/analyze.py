"""What is in a dataset, what looks wrong, and whether the order of events says anything.

Order is tested as in "Does It Look Sequential?" (Klenitskiy et al., RecSys 2024): the events of each sequence are
shuffled, several times. Frequent pairs and triples of neighbours (in --min-support sequences or more) should then be
gone; a model trained on the true order (--run) should rank the next item worse, and recommend other items, when it is
given a shuffled history. Where little changes, a model of sequences has little to learn from the order.

Example:
  seqrec analyze --dataset shop --run runs/sasrec --json analysis.json
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf.config import check_at_least
from seqrec_tf.records import DatasetFolder, read_split
from seqrec_tf.run_folder import RunFolder, output_file
from seqrec_tf.schema import SECONDS, TARGET_START, TIMESTAMPS
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
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="of the events that --run predicts")
    parser.add_argument(
        "--shuffles", type=int, default=5, help="times that the order is shuffled (default %(default)s)"
    )
    parser.add_argument(
        "--min-support", type=int, default=5, help="sequences that make a pair frequent (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffles")
    parser.add_argument("--json", metavar="FILE", help="write every figure there; - for stdout, instead of the text")


def run(args: argparse.Namespace) -> None:
    """Analyse a dataset, with a model where there is a run, and show what was found."""
    check_at_least("--shuffles", args.shuffles, 1)
    check_at_least("--min-support", args.min_support, 1)
    json_file = output_file(args.json)
    folder = DatasetFolder(args.dataset)
    model, exclude_history = None, True
    if args.run:
        folder.check_split(args.split)
        run_folder = RunFolder(args.run)
        run_folder.open_dataset(args.dataset)  # makes sure that it was trained on it
        model, exclude_history = run_folder.load_model(), run_folder.config.data.exclude_history
        model.freeze_item_table()
    with folder.manifest.explaining():
        figures = _figures(args, folder, model, exclude_history=exclude_history)
    text = json.dumps(figures, indent=2) + "\n"
    if json_file:
        write_whole(json_file, text)
    sys.stdout.write(text if args.json == "-" else report(figures))


def _figures(
    args: argparse.Namespace, folder: DatasetFolder, model: SequenceModel | None, *, exclude_history: bool
) -> dict[str, Any]:
    """All that the arguments ask for; `exclude_history` as the model was trained."""
    rows, items = folder.training_events()
    figures = describe(folder, rows, items)
    figures["order"] = neighbours(rows, items, shuffles=args.shuffles, min_support=args.min_support, seed=args.seed)
    if model is not None:
        figures["order"]["model"] = {"name": type(model).__name__, "split": args.split} | shuffled_histories(
            model,
            folder,
            split=args.split,
            exclude_history=exclude_history,
            shuffles=args.shuffles,
            seed=args.seed,
        )
    return figures


def describe(folder: DatasetFolder, rows: np.ndarray, items: np.ndarray) -> dict[str, Any]:
    """Sizes, lengths and popularity of the training sequences, and the audits.

    Args:
        folder: The dataset.
        rows: int64 [E], the sequence of each training event.
        items: int64 [E], item ids of the training events.

    Returns:
        sizes: Sequences, items, events; `density`, the share of (sequence, item) pairs that have an event.
        lengths: Quantiles and mean, events a training sequence.
        popularity: `gini` of the items' events (0 all alike, 1 one item alone), and the share of the events that
            the most frequent 1 % and 10 % of the items have.
        audits: From `stats.json`: ties and repeats; `items_without_training_events`; `targets_before_training_ends`,
            the share of the events to predict, by split, that happened before the newest training event, which a
            model knows and a service could not (None where events have no time).
    """
    stats = folder.stats
    counts = np.sort(np.bincount(items, minlength=folder.num_items + 1)[1:])[::-1]
    num_sequences = folder.num_training_sequences
    num_pairs = len(_runs(np.sort(rows * (folder.num_items + 1) + items))[0])
    share = np.cumsum(counts) / counts.sum()
    ranks = np.arange(1, len(counts) + 1)
    return {
        "sizes": {
            "sequences": num_sequences,
            "items": folder.num_items,
            "events": len(items),
            "density": num_pairs / (num_sequences * folder.num_items),
        },
        "lengths": folder.training_lengths,
        "popularity": {
            "gini": float(1 - 2 * np.mean(np.cumsum(counts[::-1]) / counts.sum()) + 1 / len(counts)),
            **{f"share_of_top_{part}%": float(share[ranks <= -(-len(counts) * part // 100)][-1]) for part in (1, 10)},
        },
        "audits": {
            "ties": stats.get("ties"),
            "repeats": stats.get("repeats"),
            # Also events of sequences of one event count, which are no training sequences.
            "items_without_training_events": folder.item_counts.count(0),
            "targets_before_training_ends": _targets_in_the_past(folder),
        },
    }


def _targets_in_the_past(folder: DatasetFolder) -> dict[str, float] | None:
    if TIMESTAMPS not in folder.schema or folder.schema.time_unit != SECONDS:
        return None
    batches = read_split(folder, "train", [TIMESTAMPS])
    end = max(int(batch[TIMESTAMPS].flat_values.numpy().max()) for batch in batches)
    shares = {}
    for split in ("valid", "test"):
        before = total = 0
        for batch in read_split(folder, split, [TIMESTAMPS, TARGET_START]):
            times, ends = batch[TIMESTAMPS].flat_values.numpy(), batch[TIMESTAMPS].row_limits().numpy()
            num_targets = batch[TIMESTAMPS].row_lengths().numpy() - batch[TARGET_START].numpy()
            in_the_past = np.append(0, np.cumsum(times < end))
            before += int((in_the_past[ends] - in_the_past[ends - num_targets]).sum())
            total += int(num_targets.sum())
        if total:
            shares[split] = before / total
    return shares


def neighbours(rows: np.ndarray, items: np.ndarray, *, shuffles: int, min_support: int, seed: int) -> dict[str, Any]:
    """Frequent runs of 2 and 3 items, before and after their sequences are shuffled.

    Args:
        rows: int64 [E], the sequence of each event, ascending.
        items: int64 [E], item ids, oldest first in each sequence.
        shuffles: Times that the order is shuffled.
        min_support: Sequences that make a run frequent.
        seed: The seed of the shuffles.

    Returns:
        For `pairs` and `triples`: `frequent`, how many; `frequent_shuffled`, how many are after shuffling, on average;
        `surviving`, the share of the frequent ones that still are.
    """
    random = np.random.default_rng(seed)
    # A random number below the sequence in one integer, which NumPy sorts in a tenth of the time of two keys.
    bits = 63 - int(rows[-1]).bit_length()
    orders = ((rows << bits) | (random.random(len(items)) * (1 << bits)).astype(np.int64) for _ in range(shuffles))
    shuffled = [items[np.argsort(order)] for order in orders]
    figures = {}
    for name, length in (("pairs", 2), ("triples", 3)):
        before = _frequent(rows, items, length, min_support)
        after = [_frequent(rows, others, length, min_support) for others in shuffled]
        kept = [len(np.intersect1d(before, one, assume_unique=True)) for one in after]
        figures[name] = {
            "frequent": len(before),
            "frequent_shuffled": float(np.mean([len(one) for one in after])),
            "surviving": float(np.mean(kept) / len(before)) if len(before) else None,
        }
    return {"shuffles": shuffles, "min_support": min_support, **figures}


def _frequent(rows, items, length, min_support):
    """Codes of the runs of items that occur in so many sequences: sorted int64."""
    num_items = int(items.max()) + 1
    if num_items**length >= 2**63:  # codes of frequent items alone fit
        kept = np.flatnonzero(np.bincount(items) >= min_support)
        items = np.where(np.isin(items, kept), np.searchsorted(kept, items) + 1, 0)
        num_items = len(kept) + 1
    num_runs = max(len(items) - length + 1, 0)
    code, is_run = np.zeros(num_runs, np.int64), np.ones(num_runs, bool)
    for place in range(length):
        code = code * num_items + items[place : place + num_runs]
        is_run &= (rows[place : place + num_runs] == rows[:num_runs]) & (items[place : place + num_runs] > 0)
    code, row = code[is_run], rows[:num_runs][is_run]
    # What occurs in so many sequences occurs so many times, and few runs do.
    codes, number = _runs(np.sort(code))
    often = codes[number >= min_support]
    if not len(often):
        return often
    which = np.minimum(np.searchsorted(often, code), len(often) - 1)
    is_often = often[which] == code
    # A run counts once in each sequence.
    num_rows = int(rows[-1]) + 1
    pairs, _ = _runs(np.sort(which[is_often] * num_rows + row[is_often]))
    return often[np.bincount(pairs // num_rows, minlength=len(often)) >= min_support]


def _runs(ordered):
    """The values of a sorted array, and how often each is there."""
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else np.zeros(0, np.int64)
    return ordered[starts], np.diff(np.append(starts, len(ordered)))


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


def report(figures: dict[str, Any]) -> str:
    """The figures in words."""
    sizes, lengths, popularity, audits = (figures[key] for key in ("sizes", "lengths", "popularity", "audits"))
    order = figures["order"]
    lines = [
        f"training      {sizes['sequences']:,} sequences, {sizes['items']:,} items, {sizes['events']:,} events; "
        f"density {sizes['density']:.2%}",
        "lengths       " + ", ".join(f"{name} {value:g}" for name, value in lengths.items()),
        f"popularity    Gini {popularity['gini']:.2f}; the top 1 % of the items have "
        f"{popularity['share_of_top_1%']:.0%} of the events, the top 10 % {popularity['share_of_top_10%']:.0%}",
    ]
    if audits["ties"]:
        lines.append(f"ties          {audits['ties']['events_sharing_a_time_with_a_neighbour']:,} events")
    if audits["repeats"]:
        repeated = audits["repeats"]["repeated_events"]
        lines.append(f"repeats       {repeated:,} events of an item seen before in the sequence")
    lines.append(f"unseen items  {audits['items_without_training_events']:,} have no training events")
    if audits["targets_before_training_ends"] is not None:
        shares = [f"{share:.1%} of {split}" for split, share in audits["targets_before_training_ends"].items()]
        lines.append(f"future        {', '.join(shares)} targets happened before the newest training event")
    for name in ("pairs", "triples"):
        figure = order[name]
        surviving = "" if figure["surviving"] is None else f"; {figure['surviving']:.1%} of them still are"
        lines.append(
            f"{name:<14}{figure['frequent']:,} frequent {name} of neighbours (in {order['min_support']}+ sequences), "
            f"{figure['frequent_shuffled']:,.0f} when shuffled{surviving}"
        )
    if "model" in order:
        model = order["model"]
        for name in (f"ndcg@{_K}", f"hr@{_K}"):
            figure = model[name]
            change = "" if figure["relative_change"] is None else f" ({figure['relative_change']:+.0%})"
            lines.append(
                f"{name:<14}{figure['true_order']:.4f} of {model['name']}; {figure['shuffled']:.4f} with shuffled "
                f"histories{change}"
            )
        lines.append(
            f"{f'jaccard@{_K}':<14}{model[f'jaccard@{_K}']:.2f} between the lists of true and shuffled histories"
        )
    return "\n".join(lines) + "\n"
