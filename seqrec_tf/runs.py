"""All runs below a folder in one table, best first, with only the options in which they differ.

Figures are of validation, at each run's best epoch. `seqrec compare RUN RUN` says whether a difference could be chance.

Example:
  seqrec runs runs --sort hr@10
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import pathlib
import sys
import tomllib
from collections.abc import Iterable
from typing import Any

from seqrec_tf.messages import next_command
from seqrec_tf.run_folder import CONFIG_FILE, DATASET_FILE, LOG_FILE, METRICS_FILE, local_path, output_file
from seqrec_tf.schema import COMPLETED_FILE
from seqrec_tf.writing import write_whole

_VALIDATION = "val_"
DEFAULT_METRIC = "ndcg@10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("folder", metavar="FOLDER", help="where to look for runs, at any depth")
    parser.add_argument(
        "--sort", metavar="METRIC", help=f"of validation, such as hr@10 or auc (default: {DEFAULT_METRIC}, else auc)"
    )
    parser.add_argument("--json", metavar="FILE", help="write every option and figure there; - for stdout")


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments."""
    output_file(args.json)
    find(args.folder)


def run(args: argparse.Namespace) -> None:
    """Show the runs of a folder."""
    json_file = output_file(args.json)
    found = find(args.folder)
    metric = args.sort.lower() if args.sort else _default_metric(found)
    found = ordered(found, metric)
    text = json.dumps([dataclasses.asdict(summary) for summary in found], indent=2) + "\n"
    if json_file:
        write_whole(json_file, text)
    if args.json == "-":
        sys.stdout.write(text)
        return
    sys.stdout.write(table(found, metric))
    paths = [pathlib.Path(args.folder) / summary.name for summary in found if summary.state == "finished"]
    if len(paths) > 1:
        sys.stdout.write(next_command("compare", paths[1], paths[0]))
    elif paths:
        sys.stdout.write(next_command("evaluate", "--run", paths[0]))


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """A run in one row.

    Attributes:
        name: Its path below the folder that was searched.
        state: "finished", or "unfinished" where it was stopped or is still going.
        dataset: Path of its dataset.
        fingerprint: Digest of its dataset: figures of runs that differ in it do not compare.
        options: Each option of the configuration, by its name such as "model.dim"; "model" is the model's name.
        figures: Of the best epoch by name, such as "ndcg@10" and "loss"; empty before the first validation.
        epoch: The best epoch; None before there is one.
        epochs: Epochs so far.
        seconds: That they took.
        parameters: Numbers that the model learns; None of an unfinished run.
    """

    name: str
    state: str
    dataset: str
    fingerprint: str
    options: dict[str, Any]
    figures: dict[str, float]
    epoch: int | None
    epochs: int
    seconds: float
    parameters: int | None


def find(folder: str | pathlib.Path) -> list[RunSummary]:
    """The runs at and below a folder, finished or not, by name.

    Raises:
        FileNotFoundError: There is no such folder, or no run in it.
    """
    folder = local_path(folder, "FOLDER")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder. Give the one that holds your runs, such as runs.")
    configs = sorted(path for path in folder.rglob(CONFIG_FILE) if (path.parent / DATASET_FILE).exists())
    if not configs:
        raise FileNotFoundError(
            f"{folder} holds no runs: no folder in it has a {CONFIG_FILE} and a {DATASET_FILE}. Make one with "
            f"`seqrec train --dataset DATASET --model sasrec --output {folder / 'sasrec'}`."
        )
    return [_summary(path.parent, folder) for path in configs]


def _summary(path: pathlib.Path, folder: pathlib.Path) -> RunSummary:
    config = tomllib.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    dataset = json.loads((path / DATASET_FILE).read_text(encoding="utf-8"))
    options = {"model": config.pop("model_name")}
    options |= {f"{section}.{key}": value for section, keys in config.items() for key, value in keys.items()}
    is_finished = (path / COMPLETED_FILE).exists() and (path / METRICS_FILE).exists()
    metrics = json.loads((path / METRICS_FILE).read_text(encoding="utf-8")) if is_finished else {}
    epochs = read_log(path / LOG_FILE)
    best = metrics.get("best") if is_finished else _best(epochs)
    return RunSummary(
        name=str(path.relative_to(folder)) if path != folder else path.name,
        state="finished" if is_finished else "unfinished",
        dataset=dataset["path"],
        fingerprint=dataset["fingerprint"],
        options=options,
        figures={name.removeprefix(_VALIDATION): value for name, value in (best or {}).items() if _is_figure(name)},
        epoch=int(best["epoch"]) if best else None,
        epochs=metrics.get("epochs", len(epochs)),
        seconds=metrics.get("seconds", sum(epoch.get("seconds", 0.0) for epoch in epochs)),
        parameters=metrics.get("parameters"),
    )


def _is_figure(name: str) -> bool:
    return name == "loss" or name.startswith(_VALIDATION)


def read_log(file: pathlib.Path) -> list[dict[str, float]]:
    """The epochs of a run's log.csv, none where there is none yet; figures that an epoch does not have are left out."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(stream)]


def _best(epochs: list[dict[str, float]]) -> dict[str, float] | None:
    for metric in (_VALIDATION + DEFAULT_METRIC, f"{_VALIDATION}auc"):
        validated = [epoch for epoch in epochs if metric in epoch]
        if validated:
            return max(validated, key=lambda epoch: epoch[metric])
    return epochs[-1] if epochs else None


def _default_metric(found: Iterable[RunSummary]) -> str:
    names = {name for summary in found for name in summary.figures}
    return DEFAULT_METRIC if DEFAULT_METRIC in names or "auc" not in names else "auc"


def ordered(found: list[RunSummary], metric: str) -> list[RunSummary]:
    """Runs by a figure, best first; those without it last, by name.

    Raises:
        ValueError: No run has such a figure.
    """
    names = sorted({name for summary in found for name in summary.figures})
    if names and metric not in names:
        raise ValueError(f"--sort must be one of {', '.join(names)}, got {metric!r}.")
    sign = 1.0 if metric in ("loss", "logloss") else -1.0  # where less is better
    return sorted(found, key=lambda run: (metric not in run.figures, sign * run.figures.get(metric, 0.0), run.name))


def differing_options(found: Iterable[dict[str, Any]]) -> list[str]:
    """The options of which some configurations have different values, by name, in their order there.

    What the model of one has and that of another has not is no difference: the models' names say that.
    """
    values: dict[str, list[Any]] = {}
    for options in found:
        for name, value in options.items():
            values.setdefault(name, []).append(value)
    return [name for name, of_each in values.items() if any(value != of_each[0] for value in of_each)]


def table(found: list[RunSummary], metric: str) -> str:
    """The runs as text: a row a run, with the figure that sorts them and the options in which they differ."""
    options = differing_options(summary.options for summary in found)
    short = {name: name.partition(".")[2] or name for name in options}
    if len(set(short.values())) < len(options):  # such as model.seed and data.seed
        short = {name: name for name in options}
    datasets = list(dict.fromkeys(summary.fingerprint for summary in found))
    header = ["run", metric, "epoch", "min", "parameters", *(["dataset"] if len(datasets) > 1 else [])]
    rows = [[*header, *short.values()]]
    for summary in found:
        figure = summary.figures.get(metric)
        rows.append(
            [
                summary.name + ("" if summary.state == "finished" else " (unfinished)"),
                "-" if figure is None else f"{figure:.4f}",
                f"{summary.epoch if summary.epoch is not None else '-'}/{summary.epochs}",
                f"{summary.seconds / 60:.1f}",
                "-" if summary.parameters is None else f"{summary.parameters:,}",
                *([pathlib.PurePath(summary.dataset).name] if len(datasets) > 1 else []),
                *(_shown(summary.options.get(name)) for name in options),
            ]
        )
    lines = [columns(rows, left=1)]
    if len(datasets) > 1:
        lines.append(f"These runs are of {len(datasets)} datasets: figures compare within each alone.\n")
    return "".join(lines)


def columns(rows: list[list[str]], *, left: int) -> str:
    """Rows of cells as aligned columns: the first `left` to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "".join(f"{line}\n" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None or value == "" else str(value)
