"""One HTML page about a run, or about a dataset alone, that opens without a server or a network.

A run's page shows what was trained on what, with the command that repeats it; figures with their intervals beside
popularity and the runs of --beside; how the epochs went; for whom it is good and for whom not; what attends to what; a
map of the items; histories beside what was recommended and what came next; and the dataset.

Example:
  seqrec report --run runs/sasrec --beside runs/gru4rec
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from seqrec_tf.messages import next_command
from seqrec_tf.run_folder import RunFolder, local_path, output_file

if TYPE_CHECKING:
    from seqrec_tf.records import DatasetFolder

NEEDS_TENSORFLOW = True

REPORT_FILE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--run", required=True, metavar="RUN", help="folder made by `seqrec train`")
    parser.add_argument("--beside", nargs="+", default=[], metavar="RUN", help="other runs of the same dataset")
    parser.add_argument("--dataset", metavar="DATASET", help="where the run's dataset is now, if it was moved")
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="of the events (default: test)")
    parser.add_argument(
        "--image-folder", default="", metavar="DIR", help="what image paths of the items file are relative to"
    )
    parser.add_argument("--output", metavar="FILE", help=f"the page (default: {REPORT_FILE} in RUN)")


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments, as far as it can be told without TensorFlow."""
    output_file(args.output, "--output")
    if args.image_folder and not pathlib.Path(args.image_folder).is_dir():
        raise FileNotFoundError(f"--image-folder {args.image_folder}: there is no such folder.")
    for path in (args.run, *args.beside):
        folder = RunFolder(path)
        if "://" not in (args.dataset or folder.dataset_info["path"]):
            folder.open_dataset(args.dataset)


def run(args: argparse.Namespace) -> None:
    """Write the page of a run."""
    folder = RunFolder(args.run)
    output = local_path(args.output, "--output") if args.output else folder.path / REPORT_FILE
    write_run_report(
        folder,
        output,
        beside=[RunFolder(path) for path in args.beside],
        dataset=args.dataset,
        split=args.split,
        image_folder=args.image_folder,
    )
    sys.stdout.write(f"{output}: {output.stat().st_size / 1e6:.1f} MB; open it in a browser\n")
    sys.stdout.write(next_command("export", "--run", args.run, "--output", "MODELS/NAME"))


def write_run_report(
    run: RunFolder,
    output: pathlib.Path,
    *,
    beside: Iterable[RunFolder] = (),
    dataset: str | None = None,
    split: str = "test",
    image_folder: str = "",
) -> None:
    """Write the page of a run.

    Args:
        run: The run.
        output: The file.
        beside: Other runs of the same dataset, to compare with.
        dataset: Where the run's dataset is now, if it was moved.
        split: "valid" or "test", whose events to predict are shown.
        image_folder: What image paths of the items file are relative to; empty for no pictures.

    Raises:
        ValueError: A run is of another dataset, or the split is empty.
    """
    from seqrec_tf.report.page import write_page

    write_page(run_data(run, beside=beside, dataset=dataset, split=split, image_folder=image_folder), output)


def run_data(
    run: RunFolder,
    *,
    beside: Iterable[RunFolder] = (),
    dataset: str | None = None,
    split: str = "test",
    image_folder: str = "",
) -> dict[str, Any]:
    """All that the page of a run shows, as JSON-serialisable values; arguments as of `write_run_report`."""
    import time

    from seqrec_tf.evaluate import default_protocol, evaluate
    from seqrec_tf.models import PopRec
    from seqrec_tf.report.of_dataset import dataset_panel
    from seqrec_tf.report.of_items import ItemCards
    from seqrec_tf.report.of_run import model_panels, quality_panel, segments_panel, training_panel

    folder = run.open_dataset(dataset)
    if not folder.split_files(split) and folder.split_files("valid"):
        split = "valid"
    folder.check_split(split)
    others = list(beside)
    for other in others:
        other.open_dataset(folder.path)
    model = run.load_model()
    model.freeze_item_table()
    protocol = default_protocol(model)
    models = {run.path.name: model}
    for other in others:
        models[_free_name(other, models)] = other.load_model()
    models.setdefault("poprec", PopRec.from_dataset(folder))
    started = time.monotonic()
    exclude_history = run.config.data.exclude_history
    results = {
        name: evaluate(each, folder, split=split, protocol=protocol, exclude_history=exclude_history)
        for name, each in models.items()
    }
    cards = ItemCards(folder, image_folder)
    targets = next(iter(results.values())).targets
    data: dict[str, Any] = {
        "kind": "run",
        "title": run.path.name,
        "split": split,
        "protocol": protocol,
        "training": training_panel(run),
        "quality": quality_panel(results),
        "seconds_of_evaluation": round(time.monotonic() - started, 1),
        "dataset": dataset_panel(folder),
    }
    if targets is None:
        return data
    return {
        **data,
        "segments": segments_panel(folder, split, results),
        **model_panels(model, folder, split, targets, cards),
    }


def write_dataset_report(folder: DatasetFolder, output: pathlib.Path, analysis: dict[str, Any]) -> None:
    """Write the page of a dataset alone; `analysis` is what `seqrec analyze` found of it."""
    from seqrec_tf.report.of_dataset import dataset_panel
    from seqrec_tf.report.page import write_page

    title = folder.path.rpartition("/")[2]
    write_page({"kind": "dataset", "title": title, "dataset": dataset_panel(folder, analysis=analysis)}, output)


def _free_name(run: RunFolder, taken: Iterable[str]) -> str:
    return run.path.name if run.path.name not in taken else str(run.path)
