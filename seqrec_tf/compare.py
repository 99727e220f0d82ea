"""Two runs on the same held-out events: which is better, by how much, and for whom.

Each event is ranked by both models among all items. The difference is the second run's figure less the first's; its
95 % interval is of a paired bootstrap of users: where it holds 0, the difference could be chance. Segments show where
the models differ: short histories, rare items, long pauses, new users. The last lines name users for whom they differ
most, to look at.

Example:
  seqrec compare runs/gru4rec runs/sasrec
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from seqrec_tf.config import check_at_least
from seqrec_tf.evaluation.intervals import CUTOFFS, Interval
from seqrec_tf.messages import next_command
from seqrec_tf.run_folder import RunFolder, output_file
from seqrec_tf.runs import columns, differing_options
from seqrec_tf.schema import USER_ID
from seqrec_tf.writing import write_whole

if TYPE_CHECKING:
    from seqrec_tf.evaluation.targets import Targets
    from seqrec_tf.records import DatasetFolder

NEEDS_TENSORFLOW = True

_FIGURES = tuple(f"{name}@{k}" for name in ("hr", "ndcg", "mrr") for k in CUTOFFS[1:])
_SEGMENT_FIGURE = "ndcg@10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("first", metavar="RUN", help="folder made by `seqrec train`")
    parser.add_argument("second", metavar="RUN", help="another one, trained on the same dataset")
    parser.add_argument("--dataset", metavar="DATASET", help="where the runs' dataset is now, if it was moved")
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="of the events (default: test)")
    parser.add_argument("--keep-history", action="store_true", help="let items of the history be recommended")
    parser.add_argument("--users", type=int, default=5, metavar="N", help="whom to name on each side (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--json", metavar="FILE", help="write every figure there; - for stdout, instead of the tables")


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments, as far as it can be told without TensorFlow."""
    output_file(args.json)
    check_at_least("--users", args.users, 0)
    check_at_least("--seed", args.seed, 0)
    runs = RunFolder(args.first), RunFolder(args.second)
    if "://" not in (args.dataset or runs[0].dataset_info["path"]):
        _common_dataset(*runs, args.dataset).check_split(args.split)


def run(args: argparse.Namespace) -> None:
    """Evaluate two runs on the same events, and show how they differ."""
    json_file = output_file(args.json)
    runs = RunFolder(args.first), RunFolder(args.second)
    folder = _common_dataset(*runs, args.dataset)
    comparison = compare(
        *runs,
        folder,
        split=args.split,
        keep_history=args.keep_history,
        num_users=args.users,
        seed=args.seed,
    )
    text = json.dumps(dataclasses.asdict(comparison), indent=2) + "\n"
    if json_file:
        write_whole(json_file, text)
    if args.json == "-":
        sys.stdout.write(text)
        return
    sys.stdout.write(table(comparison))
    sys.stdout.write(next_command("export", "--run", args.second, "--output", "MODELS/NAME"))


@dataclasses.dataclass(frozen=True)
class Difference:
    """A figure of both runs.

    Attributes:
        first: The first run's.
        second: The second run's.
        difference: The second's less the first's, with its interval.
        targets: Events that it is of.
    """

    first: float
    second: float
    difference: Interval
    targets: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval holds no 0: that one is better is hardly chance."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How two runs differ on one split.

    Attributes:
        names: The two runs.
        split: "valid" or "test".
        options: The options in which they differ: name to the value of each.
        overall: Figure to its difference over all targets.
        segments: What targets are told apart by, to the name of a segment, to the difference in NDCG@10 there.
        common: Mean share of the first ten recommendations that both give.
        cases: Targets whose ranks differ most, those that the second run predicts better first: dictionaries with
            "who" (the user or the number of the sequence), "item", "events_before", "first" and "second" (the ranks,
            all beyond the last cut-off alike).
    """

    names: tuple[str, str]
    split: str
    options: dict[str, tuple[Any, Any]]
    overall: dict[str, Difference]
    segments: dict[str, dict[str, Difference]]
    common: float
    cases: list[dict[str, Any]]


def _common_dataset(first: RunFolder, second: RunFolder, path: str | None) -> DatasetFolder:
    """The dataset of two runs; a ValueError where they were trained on different ones."""
    mine, theirs = first.dataset_info, second.dataset_info
    if mine["fingerprint"] != theirs["fingerprint"]:
        raise ValueError(
            f"{first.path} and {second.path} were trained on different data, {mine['path']} and {theirs['path']}: "
            "their figures do not compare. Train one of them on the other's dataset."
        )
    second.open_dataset(path)
    return first.open_dataset(path)


def compare(
    first: RunFolder,
    second: RunFolder,
    folder: DatasetFolder,
    *,
    split: str = "test",
    keep_history: bool = False,
    num_users: int = 5,
    seed: int = 0,
) -> Comparison:
    """Compare two runs on the events to predict of a split of their dataset, ranked among all items.

    Items of the history are left out, unless `keep_history`, or one of the runs was trained with
    data.exclude_history=false.

    Raises:
        ValueError: The split is empty.
    """
    from seqrec_tf.evaluate import evaluate
    from seqrec_tf.evaluation.paired import paired_differences
    from seqrec_tf.evaluation.targets import segments

    runs = (first, second)
    exclude_history = not keep_history and all(run.config.data.exclude_history for run in runs)
    found = []
    for run in runs:
        model = run.load_model()
        model.freeze_item_table()
        result = evaluate(model, folder, split=split, exclude_history=exclude_history, seed=seed)
        found.append(cast("Targets", result.targets))
    ours, theirs = found
    gains = [_gains(targets.rank) for targets in found]  # [N, figures] each
    parts = segments(folder, split, ours)
    groups = [np.ones(len(ours), bool), *(segment.has for segment in parts)]
    intervals = paired_differences(gains[1] - gains[0], ours.owner, groups, rng=np.random.default_rng(seed))

    def difference(group: int, figure: int) -> Difference:
        has = groups[group]
        first_mean, second_mean = (float(gain[has, figure].mean()) for gain in gains)
        return Difference(first_mean, second_mean, intervals[group][figure], int(has.sum()))

    by_segment: dict[str, dict[str, Difference]] = {}
    for number, segment in enumerate(parts, start=1):
        by_segment.setdefault(segment.by, {})[segment.name] = difference(number, _FIGURES.index(_SEGMENT_FIGURE))
    options = [_options(run) for run in runs]
    return Comparison(
        names=_names(first, second),
        split=split,
        options={name: (options[0].get(name), options[1].get(name)) for name in differing_options(options)},
        overall={name: difference(0, number) for number, name in enumerate(_FIGURES)},
        segments=by_segment,
        common=_common(ours.lists[:, :10], theirs.lists[:, :10]),
        cases=_cases(folder, split, ours, theirs.rank, num_users),
    )


def _gains(rank: np.ndarray) -> np.ndarray:
    """What each target adds to each of `_FIGURES`: float64 [N, figures]."""
    from seqrec_tf.learning import metrics

    parts = (name.split("@") for name in _FIGURES)
    gains = [metrics.OF_RANKS[metric](rank, int(k)).numpy() for metric, k in parts]
    return np.stack(gains, axis=1).astype(np.float64)


def _common(first: np.ndarray, second: np.ndarray) -> float:
    """Mean share of the items of a list that the other list of the row has too."""
    is_common = (first[:, :, None] == second[:, None, :]).any(axis=2) & (first > 0)
    return float(is_common.sum() / max(1, (first > 0).sum()))


def _cases(folder: DatasetFolder, split: str, ours: Targets, other: np.ndarray, number: int) -> list[dict[str, Any]]:
    """Targets that one run finds and the other does not, the clearest of each side first."""
    change = np.log(ours.rank.astype(np.float64)) - np.log(other)  # above 0 where the second run is better
    order = np.argsort(-change, kind="stable")
    chosen = [*order[:number], *order[::-1][:number][::-1]] if len(order) > 2 * number else list(order)
    who = _owners(folder, split)
    return [
        {
            "who": who[ours.place[row, 0]],
            "item": folder.item_ids[ours.item[row] - 1],
            "events_before": int(ours.place[row, 1]),
            "first": int(ours.rank[row]),
            "second": int(other[row]),
        }
        for row in chosen
        if change[row] != 0
    ]


def _owners(folder: DatasetFolder, split: str) -> list[str]:
    """Whose each sequence of a split is: the user's id or, where users are not known, the sequence's number."""
    from seqrec_tf.records import read_split

    if USER_ID not in folder.schema:
        return [f"sequence {number}" for number in range(folder.stats["splits"][split]["sequences"])]
    batches = read_split(folder, split, [USER_ID])
    return [user.decode() for batch in batches for user in batch[USER_ID].numpy()]


def _options(run: RunFolder) -> dict[str, Any]:
    config = run.config
    options: dict[str, Any] = {"model": config.model_name}
    for section in ("model", "data", "train"):
        values = dataclasses.asdict(getattr(config, section))
        options |= {f"{section}.{key}": value for key, value in values.items()}
    return options


def _names(first: RunFolder, second: RunFolder) -> tuple[str, str]:
    """Short names of two runs: their folders', or their whole paths where these are the same."""
    if first.path.name != second.path.name:
        return first.path.name, second.path.name
    return str(first.path), str(second.path)


def table(comparison: Comparison) -> str:
    """A comparison as text."""
    first, second = comparison.names
    targets = next(iter(comparison.overall.values())).targets
    lines = [
        f"{comparison.split}, {targets:,} events to predict; {second} less {first}, with the 95 % interval of a paired "
        "bootstrap; * where it holds no 0",
        "",
        columns([["", first, second, "difference", "interval", ""], *_rows(comparison.overall)], left=1),
        f"{comparison.common:.0%} of the first ten recommendations are the same.",
        "",
    ]
    for by, segments in comparison.segments.items():
        header = [f"{_SEGMENT_FIGURE} by {by}", "events", first, second, "difference", "interval", ""]
        rows = [[name, f"{part.targets:,}", *cells] for (name, part), (_, *cells) in _with_rows(segments)]
        lines.append(columns([header, *rows], left=1))
    if comparison.options:
        rows = [[name, *map(str, values)] for name, values in comparison.options.items()]
        lines.append(columns([["options that differ", first, second], *rows], left=1))
    if comparison.cases:
        header = ["ranks that differ most", "item that came", "events before", first, second]
        rows = [
            [str(case["who"]), case["item"], f"{case['events_before']:,}", _rank(case["first"]), _rank(case["second"])]
            for case in comparison.cases
        ]
        lines.append(columns([header, *rows], left=2))
    return "\n".join(lines)


def _rows(differences: dict[str, Difference]) -> list[list[str]]:
    return [
        [
            name,
            f"{part.first:.4f}",
            f"{part.second:.4f}",
            f"{part.difference.value:+.4f}",
            f"[{part.difference.low:+.4f}, {part.difference.high:+.4f}]",
            "*" if part.is_clear else "",
        ]
        for name, part in differences.items()
    ]


def _with_rows(segments: dict[str, Difference]):
    return zip(segments.items(), _rows(segments), strict=True)


def _rank(rank: int) -> str:
    """A rank as text; an evaluation counts ranks no further than the last cut-off."""
    return f"{rank}" if rank <= max(CUTOFFS) else f"> {max(CUTOFFS)}"
