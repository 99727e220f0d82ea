"""Write a run's best model as a SavedModel that TF Serving serves: string ids in, string ids and scores out.

Signature `serving_default`, what to recommend:
  history      string [batch, length]  item ids, oldest first; "" is padding, ids the model does not know are ignored
  items        string [batch, k]       recommended ids, best first; "" where fewer than k are left
  scores       float32 [batch, k]      their scores, in descending order
  num_unknown  int32 [batch]           how many ids of the history were ignored

Signature `rank`, how good each of some candidates is:
  history      as above
  candidates   string [batch, number]  item ids, in any order
  scores       float32 [batch, number] in the order of the candidates; the lowest number for an id that is not known
  num_unknown  as above

Both take more where the model reads it: `user_id` string [batch]; `history_timestamps` int64 [batch, length] and
`timestamp` int64 [batch], seconds, when the events happened and when the answer is for; features of users by their
names in the schema: a number as float32 [batch] (NaN where missing), a category as string [batch], several as string
[batch, number] ("" where missing).

A history without any known item gets the most popular items, scored by the logarithm of their share of the events; but
models that know the user answer by their vector, and ranking models by the candidate and what they know of the user.
Ranking models of a dataset with labels take a history of liked events alone.

With --items, items that came after training are candidates too, for models that know items by their features.

Beside the model, in assets.extra/, go warm-up requests for TF Serving, golden requests (histories with the answers that
the trained model gave), the schema and the configuration. The saved model is loaded the way TF Serving loads it, and
nothing is published unless it gives the golden answers. COMPLETED names the files, for `seqrec check`.

Example:
  seqrec export --run runs/sasrec --output models/shop
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from seqrec_tf import manifest
from seqrec_tf import run_folder as run_lib
from seqrec_tf.exporting import new_items
from seqrec_tf.exporting.golden import check_golden, golden_requests, warm_up_requests, write_warm_up
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.schema import COMPLETED_FILE, EXTRA_FOLDER, GOLDEN_FILE, RECOMMEND, SCHEMA_FILE, WARM_UP_FILE
from seqrec_tf.writing import LOCK_FILE, naming, only_writer

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder

NEEDS_TENSORFLOW = True

# Begins the name of a version that is not whole: no integer, so no server takes it for one.
_PARTIAL = "partial-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--run", required=True, metavar="RUN", help="folder made by `seqrec train`")
    parser.add_argument(
        "--output", required=True, metavar="MODELS/NAME", help="the version goes to MODELS/NAME/VERSION"
    )
    parser.add_argument("--version", type=int, help="positive integer (default: one more than the newest there)")
    parser.add_argument("--k", type=int, default=20, help="items in an answer (default 20)")
    parser.add_argument("--dataset", metavar="DATASET", help="where the run's dataset is now, if it was moved")
    parser.add_argument(
        "--items", metavar="FILE", help="CSV, TSV or JSON lines (UTF-8) with new items, columns as in training"
    )
    parser.add_argument("--item-id-column", help="of --items (default item_id)")
    parser.add_argument("--image-folder", metavar="DIR", help="what image paths of --items are relative to")
    parser.add_argument("--keep-history", action="store_true", help="let items of the history be recommended")
    parser.add_argument(
        "--history-length",
        type=int,
        help="fix the second dimension of `history`, as TF Serving's batching needs; by default it is free",
    )


def run(args: argparse.Namespace) -> None:
    """Export as the arguments say."""
    for name in ("item_id_column", "image_folder"):
        if getattr(args, name) is not None and not args.items:
            raise ValueError(f"--{name.replace('_', '-')} needs --items.")
    path = export(
        RunFolder(args.run),
        args.output,
        version=args.version,
        k=args.k,
        dataset=args.dataset,
        keep_history=args.keep_history,
        history_length=args.history_length,
        items=args.items,
        item_id_column=args.item_id_column or "item_id",
        image_folder=args.image_folder or "",
    )
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    golden = json.loads((path / EXTRA_FOLDER / GOLDEN_FILE).read_text(encoding="utf-8"))
    if note := changed_inputs(path):
        sys.stderr.write(f"{note}\n")
    sys.stdout.write(
        f"{path}: {size / 1e6:.1f} MB; {len(golden)} golden requests answered as by the trained model\n"
        + f"Next: seqrec serve --models {path.parent.parent}\n"
    )


def export(
    run_folder: RunFolder,
    output: str | os.PathLike,
    *,
    version: int | None = None,
    k: int = 20,
    dataset: str | None = None,
    keep_history: bool = False,
    history_length: int | None = None,
    items: str | None = None,
    item_id_column: str = "item_id",
    image_folder: str = "",
) -> pathlib.Path:
    """Write the best model of a run to `output/version`.

    Args:
        run_folder: A finished run.
        output: Folder of the model's versions; its name is the model's name.
        version: Positive; by default one more than the newest there, or 1.
        k: Items in an answer.
        dataset: Where the run's dataset is now, if it was moved.
        keep_history: Whether items of the history may be recommended even if the run excluded them.
        history_length: Second dimension of `history`; any where None.
        items: File with items that came after training, for `new_items.read`.
        item_id_column: Its column with the item's id.
        image_folder: What its image paths are relative to.

    Returns:
        The version's folder.

    Raises:
        FileExistsError: The version is there already.
        ValueError: `k` is more than there are items.
        RuntimeError: The saved model does not give the trained model's answers; nothing is published.
    """
    from seqrec_tf.learning.ranking import multiply_exactly

    if history_length is not None and history_length < 1:
        raise ValueError(f"--history-length must be at least 1, got {history_length}.")
    with _new_version(run_lib.local_path(output, "--output"), version) as (target, partial):
        folder = run_folder.open_dataset(dataset)
        if not 1 <= k <= folder.num_items:
            raise ValueError(f"--k must be from 1 to the number of items, {folder.num_items}, got {k}.")
        multiply_exactly()
        model = run_folder.load_model()
        catalogue = folder.item_ids
        if items:
            wanted = [feature.name for feature in model.item_features.features] if model.item_features else []
            new = new_items.read(items, folder, wanted, id_column=item_id_column, image_folder=image_folder)
            model = model.with_new_items(len(new.ids), new.values)
            catalogue = [*catalogue, *new.ids]
        model.freeze_item_table()
        exclude_history = run_folder.config.data.exclude_history and not keep_history
        answers: dict[str, Any] = {"k": k, "exclude_history": exclude_history, "history_length": history_length}
        _save(model, folder, catalogue, partial, **answers)
        with folder.manifest.explaining():
            golden = golden_requests(model, folder, catalogue, **answers)
        check_golden(partial, golden, history_length)
        extra = partial / EXTRA_FOLDER
        extra.mkdir()
        (extra / GOLDEN_FILE).write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
        (extra / SCHEMA_FILE).write_text(folder.schema.to_json(), encoding="utf-8")
        for file in (run_lib.CONFIG_FILE, run_lib.DATASET_FILE):  # what the model was made of
            shutil.copy(run_folder.path / file, extra / file)
        requests = warm_up_requests(
            target.parent.name, golden, history_length, scores_one_by_one=model.scores_one_by_one
        )
        write_warm_up(extra / WARM_UP_FILE, requests)
    return target


@contextlib.contextmanager
def _new_version(output: pathlib.Path, version: int | None) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """The folder of a version that is not there yet, and one to write it in, which gets that name once it is whole.

    Args:
        output: Folder of the model's versions. No other process may write there meanwhile.
        version: Positive; one more than the newest there where None.

    Raises:
        FileExistsError: The version is there already.
        ValueError: The version is no positive integer.
    """
    with only_writer(output / LOCK_FILE, str(output)), naming(output):
        versions = [int(entry.name) for entry in output.glob("*") if entry.name.isdigit()]
        version = version if version is not None else max(versions, default=0) + 1
        if version < 1:
            raise ValueError(f"--version must be a positive integer, got {version}.")
        target = output / str(version)
        if target.exists():
            raise FileExistsError(f"{target} is there already. Leave out --version to write {max(versions) + 1}.")
        for left in output.glob(f"{_PARTIAL}*"):  # of an export that was killed
            shutil.rmtree(left, ignore_errors=True)
        partial = output / f"{_PARTIAL}{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        try:
            yield target, partial
            names = [file.relative_to(partial).as_posix() for file in partial.rglob("*") if file.is_file()]
            files = manifest.of_folder(partial, names)
            (partial / COMPLETED_FILE).write_text(manifest.to_json(manifest.MODEL, files), encoding="utf-8")
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _save(
    model: SequenceModel,
    folder: DatasetFolder,
    catalogue: Sequence[str],
    partial: pathlib.Path,
    *,
    k: int,
    exclude_history: bool,
    history_length: int | None,
) -> None:
    """Write the SavedModel of a model whose item table is frozen."""
    import tensorflow as tf

    from seqrec_tf.exporting.serving_module import make_serving_module, signatures

    vocabulary = partial / "item_id.txt"  # saved as an asset, so removed below
    vocabulary.write_text("".join(f"{item}\n" for item in catalogue), encoding="utf-8")
    module = make_serving_module(model, folder, str(vocabulary), k=k, exclude_history=exclude_history)
    tf.saved_model.save(module, str(partial), signatures=signatures(module, model, history_length))
    vocabulary.unlink()


def changed_inputs(version: pathlib.Path) -> str:
    """What differs from the inputs of the newest other version beside it, in a sentence; empty where nothing does."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    def inputs(folder):
        saved_model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        return saved_model.meta_graphs[0].signature_def[RECOMMEND.name].inputs

    def words(info):
        size = info.tensor_shape.dim[1].size if len(info.tensor_shape.dim) > 1 else -1
        return tf.as_dtype(info.dtype).name + (f" of length {size}" if size >= 0 else "")

    files = version.parent.glob("[0-9]*/saved_model.pb")
    others = [file.parent for file in files if file.parent.name.isdigit() and file.parent != version]
    if not others:
        return ""
    other = max(others, key=lambda folder: int(folder.name))
    try:
        now, before = inputs(version), inputs(other)
    except (DecodeError, IndexError, OSError):  # the other is no whole model
        return ""
    changes = [f"{name} is new" for name in now if name not in before]
    changes += [f"{name} is gone" for name in before if name not in now]
    changes += [
        f"{name} is {words(now[name])}, not {words(before[name])}"
        for name in now
        if name in before and words(now[name]) != words(before[name])
    ]
    if not changes:
        return ""
    return f"Requests for version {other.name} do not fit version {version.name}: {'; '.join(sorted(changes))}."
