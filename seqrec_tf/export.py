"""Write a run's best model as a SavedModel that TF Serving serves: string ids in, string ids and scores out.

Signature `serving_default`, what to recommend:
  history      string [batch, length]  item ids, oldest first; "" is padding, ids the model does not know are ignored
  items        string [batch, k]       recommended ids, best first; "" where fewer than k are left
  scores       float32 [batch, k]      their scores, in descending order
  num_unknown  int32 [batch]           how many ids of the history were ignored

Others, of which docs/serving.md has a table:
  recommend    what to recommend, of what each row excludes and allows, and how many items
  rank         how good each of some candidates is
  embed        the vector of a history, where scores are dot products (--item-vectors writes those of the items)
  similar      items that are like an item
  examples     as `recommend`, of serialized tf.Examples, for `classify`; `regress` is `rank` of one candidate

All take more where the model reads it: `user_id` string [batch]; `history_timestamps` int64 [batch, length] and
`timestamp` int64 [batch], seconds, when the events happened and when the answer is for; features of users by their
names in the schema: a number as float32 [batch] (NaN where missing), a category as string [batch], several as string
[batch, number] ("" where missing).

A history without any known item gets the most popular items, scored by the logarithm of their share of the events; but
models that know the user answer by their vector, and ranking models by the candidate and what they know of the user.
Ranking models of a dataset with labels take a history of liked events alone.

With --retrieve RUN --rank RUN in place of --run, one saved model has two stages: the first model proposes --candidates
items, the second orders them. Both must have learned from the same items, in the same order. Where the second takes
liked events alone and the first all, requests say which were liked: `history_labels` int64 [batch, length], 0 or 1.

--max-per COLUMN=M lists at most M items of one category of the items file, --exclude-category COLUMN=VALUE none of one.

With --items, items that came after training are candidates too, for models that know items by their features.

Beside the model, in assets.extra/, go warm-up requests for TF Serving, golden requests (histories with the answers that
the trained model gave), the schema and the configuration. The saved model is loaded the way TF Serving loads it, and
nothing is published unless it gives the golden answers. COMPLETED names the files, for `seqrec check`.

Example:
  seqrec export --run runs/sasrec --output models/shop
  seqrec export --retrieve runs/sasrec --rank runs/bst --candidates 200 --output models/shop
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
from typing import TYPE_CHECKING

from seqrec_tf import manifest
from seqrec_tf import run_folder as run_lib
from seqrec_tf.config import check_at_least
from seqrec_tf.exporting import new_items, rules
from seqrec_tf.exporting.golden import (
    WARM_UP_BATCH_SIZES,
    check_golden,
    golden_requests,
    warm_up_requests,
    write_warm_up,
)
from seqrec_tf.messages import DATASET, MODELS, RUN, VERSION, kind_of, next_command
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.schema import COMPLETED_FILE, EXTRA_FOLDER, GOLDEN_FILE, RECOMMEND, SCHEMA_FILE, WARM_UP_FILE
from seqrec_tf.writing import LOCK_FILE, naming, only_writer

if TYPE_CHECKING:
    from seqrec_tf.exporting.serving_module import Answers, Trained

NEEDS_TENSORFLOW = True

# Begins the name of a version that is not whole: no integer, so no server takes it for one.
_PARTIAL = "partial-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--run", metavar="RUN", help="folder made by `seqrec train`")
    parser.add_argument("--retrieve", metavar="RUN", help="in place of --run: the run that proposes items")
    parser.add_argument("--rank", metavar="RUN", help="the run, of a ranking model, that orders them")
    parser.add_argument("--candidates", type=int, help="items that --retrieve proposes (default 100)")
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
    parser.add_argument(
        rules.MAX_PER,
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN=M",
        help="list at most M items of one category of this column of the items file",
    )
    parser.add_argument(
        rules.EXCLUDE_CATEGORY,
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN=VALUE",
        help="never list items of this category",
    )
    parser.add_argument(
        "--item-vectors", metavar="FOLDER", help="also write the items' ids and vectors, in Parquet and NumPy's format"
    )
    parser.add_argument(
        "--warmup-batch-sizes",
        default=",".join(map(str, WARM_UP_BATCH_SIZES)),
        metavar="N,N,...",
        help="rows of the warm-up requests: the batch sizes that the server allows (default %(default)s)",
    )


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments, as far as it can be told without TensorFlow."""
    for name in ("item_id_column", "image_folder"):
        if getattr(args, name) is not None and not args.items:
            raise ValueError(f"--{name.replace('_', '-')} needs --items.")
    if bool(args.run) == bool(args.retrieve) or bool(args.retrieve) != bool(args.rank):
        raise ValueError("Give --run RUN, or both --retrieve RUN and --rank RUN for two stages in one model.")
    if args.candidates is not None and not args.rank:
        raise ValueError("--candidates needs --retrieve and --rank.")
    if args.items and not pathlib.Path(args.items).is_file():
        raise FileNotFoundError(f"--items {args.items}: there is no such file.")
    if args.image_folder and "://" not in args.image_folder and not pathlib.Path(args.image_folder).is_dir():
        raise FileNotFoundError(f"--image-folder {args.image_folder}: there is no such folder.")
    check_history_length(args.history_length)
    output = run_lib.local_path(args.output, "--output")
    if (kind := kind_of(output)) in (DATASET, RUN, MODELS, VERSION, "a file"):
        raise ValueError(f"--output {output} is {kind}; name the folder of one model, such as {output.parent}/NAME.")
    _new_version(output, args.version)
    run_folder = RunFolder(args.run or args.retrieve)
    if args.rank:
        RunFolder(args.rank)
    run_folder.excludes_history(keep_history=args.keep_history)
    if "://" not in (args.dataset or run_folder.dataset_info["path"]):
        check_k(args.k, run_folder.open_dataset(args.dataset).num_items)


def check_history_length(history_length: int | None) -> None:
    """Raise a ValueError where no history has this length."""
    if history_length is not None:
        check_at_least("--history-length", history_length, 1)


def check_k(k: int, num_items: int) -> None:
    """Raise a ValueError where an answer cannot have so many items."""
    if not 1 <= k <= num_items:
        raise ValueError(f"--k must be from 1 to the number of items, {num_items}, got {k}.")


def run(args: argparse.Namespace) -> None:
    """Export as the arguments say."""
    path = export(
        RunFolder(args.run or args.retrieve),
        args.output,
        version=args.version,
        k=args.k,
        dataset=args.dataset,
        keep_history=args.keep_history,
        history_length=args.history_length,
        items=args.items,
        item_id_column=args.item_id_column or "item_id",
        image_folder=args.image_folder or "",
        ranker=RunFolder(args.rank) if args.rank else None,
        num_candidates=100 if args.candidates is None else args.candidates,
        wanted_rules=rules.parse(args.max_per, args.exclude_category),
        item_vectors=args.item_vectors,
        warm_up_batch_sizes=_batch_sizes(args.warmup_batch_sizes),
    )
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    golden = json.loads((path / EXTRA_FOLDER / GOLDEN_FILE).read_text(encoding="utf-8"))
    if note := changed_inputs(path):
        sys.stderr.write(f"{note}\n")
    sys.stdout.write(
        f"{path}: {size / 1e6:.1f} MB; {len(golden)} golden requests answered as by the trained model\n"
        + next_command("serve", "--models", path.parent.parent)
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
    ranker: RunFolder | None = None,
    num_candidates: int = 100,
    wanted_rules: rules.Wanted | None = None,
    item_vectors: str | None = None,
    warm_up_batch_sizes: Sequence[int] = WARM_UP_BATCH_SIZES,
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
        ranker: A finished run of a ranking model, which orders what the other proposes; None where there is one stage.
        num_candidates: Items that are proposed to it.
        wanted_rules: Which categories are not shown, and how many items of one.
        item_vectors: Folder to write the items' vectors to; they are not written where None.
        warm_up_batch_sizes: Rows of the warm-up requests.

    Returns:
        The version's folder.

    Raises:
        FileExistsError: The version is there already.
        ValueError: `k` is more than there are items.
        RuntimeError: The saved model does not give the trained model's answers; nothing is published.
    """
    from seqrec_tf.exporting import item_vectors as vectors_lib
    from seqrec_tf.exporting.serving_module import Answers, Trained
    from seqrec_tf.exporting.two_stages import second_stage
    from seqrec_tf.learning.ranking import multiply_exactly

    check_history_length(history_length)
    with _published_as(run_lib.local_path(output, "--output"), version) as (target, partial):
        vectors_target = vectors_lib.new_folder(item_vectors) if item_vectors else None
        folder = run_folder.open_dataset(dataset)
        check_k(k, folder.num_items)
        multiply_exactly()
        model = run_folder.load_model()
        if vectors_target and not model.scores_by_vectors:
            raise ValueError(
                f"--item-vectors: scores of {type(model).__name__} are no products of vectors. Export another model."
            )
        catalogue, new_values = folder.item_ids, {}
        wanted_rules = wanted_rules or rules.Wanted()
        if items:
            of_model = [feature.name for feature in model.item_features.features] if model.item_features else []
            wanted = [*of_model, *(name for name in wanted_rules.names if name not in of_model)]
            new = new_items.read(items, folder, wanted, id_column=item_id_column, image_folder=image_folder)
            model = model.with_new_items(len(new.ids), new.values)
            catalogue, new_values = [*catalogue, *new.ids], new.values
        model.freeze_item_table()
        stages = [Trained(model, folder)]
        if ranker is not None:
            stages.append(
                second_stage(ranker, stages[0], dataset, k=k, num_candidates=num_candidates, has_new=bool(items))
            )
        answers = Answers(
            k=k,
            exclude_history=run_folder.excludes_history(keep_history=keep_history),
            history_length=history_length,
            rules=rules.make(wanted_rules, folder, new_values),
            num_candidates=num_candidates if ranker is not None else 0,
        )
        of_items = vectors_lib.of_items(model).numpy() if model.scores_by_vectors else None
        _save(stages, catalogue, partial, answers)
        with folder.manifest.explaining():
            golden = golden_requests(stages, catalogue, answers)
        # Of two stages, scores are the second one's.
        check_golden(partial, golden, history_length, None if ranker else of_items, catalogue)
        extra = partial / EXTRA_FOLDER
        extra.mkdir()
        (extra / GOLDEN_FILE).write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
        (extra / SCHEMA_FILE).write_text(folder.schema.to_json(), encoding="utf-8")
        for file in (run_lib.CONFIG_FILE, run_lib.DATASET_FILE):  # what the model was made of
            shutil.copy(run_folder.path / file, extra / file)
            if ranker is not None:
                shutil.copy(ranker.path / file, extra / f"rank_{file}")
        requests = warm_up_requests(target.parent.name, golden, model, history_length, batch_sizes=warm_up_batch_sizes)
        write_warm_up(extra / WARM_UP_FILE, requests)
        if vectors_target and of_items is not None:
            vectors_lib.write(vectors_target, catalogue, of_items)
    return target


def _batch_sizes(text: str) -> list[int]:
    """The numbers of --warmup-batch-sizes."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise ValueError(f"--warmup-batch-sizes expects positive numbers such as 1,8,64, got {text!r}.")
    return sizes


def _new_version(output: pathlib.Path, version: int | None) -> pathlib.Path:
    """The folder of a version that is not there yet, the next one where None is asked for.

    Raises:
        FileExistsError: The version is there already.
        ValueError: The version is no positive integer.
    """
    versions = [int(entry.name) for entry in output.glob("*") if entry.name.isdigit()]
    version = version if version is not None else max(versions, default=0) + 1
    if version < 1:
        raise ValueError(f"--version must be a positive integer, got {version}.")
    target = output / str(version)
    if target.exists():
        raise FileExistsError(f"{target} is there already. Leave out --version to write {max(versions) + 1}.")
    return target


@contextlib.contextmanager
def _published_as(output: pathlib.Path, version: int | None) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """The folder of a new version, and one to write it in, which gets that name once it is whole.

    Args:
        output: Folder of the model's versions. No other process may write there meanwhile.
        version: As `_new_version` takes it.
    """
    with only_writer(output / LOCK_FILE, str(output)), naming(output):
        target = _new_version(output, version)
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


def _save(stages: Sequence[Trained], catalogue: Sequence[str], partial: pathlib.Path, answers: Answers) -> None:
    """Write the SavedModel."""
    import tensorflow as tf

    from seqrec_tf.exporting.serving_module import Recommender, signatures_of

    vocabulary = partial / "item_id.txt"  # saved as an asset, so removed below
    vocabulary.write_text("".join(f"{item}\n" for item in catalogue), encoding="utf-8")
    module = Recommender(stages, str(vocabulary), answers)
    tf.saved_model.save(module, str(partial), signatures=module.concrete_functions())
    vocabulary.unlink()
    of_examples = [signature for signature in signatures_of(stages[0].model) if signature.method != "predict"]
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(partial))
    for signature in of_examples:
        updater.replace_method_name(signature.name, f"tensorflow/serving/{signature.method}", tags="serve")
    updater.save()


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
