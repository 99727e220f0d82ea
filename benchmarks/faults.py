"""Faults and kills: what is done to a folder or a command, what the command says then, and what is lost.

Makes a small shop with a dataset, a run, an unfinished run and a model in a temporary folder. Then:

  faults   damages a copy, gives commands that read it, and looks at their exit status and sentence
  writers  two commands at once into one folder
  disks    output on a disk that is full or read-only (tmpfs for root, else a limit of file sizes and permissions)
  kills    SIGKILL at a random moment of prepare, embed, train and export; the same command again must end with what an
           undisturbed one gives

Prints one table, and ends with 1 where anything is not as expected. A fault more is a `Fault` more in FAULTS: of which
folder a copy is damaged, how, which commands read it, and the exit status and the words that are expected.

  python benchmarks/faults.py --kills 20
  python benchmarks/faults.py --parts faults --only checkpoint
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf  # imported once; commands run in forks, which have it then
from damage import (
    cut,
    each_of,
    flip,
    foreign_records,
    halve_records,
    in_folder,
    newest_checkpoint,
    of_same_size,
    remove,
    replace,
)
from forked import Running, call, in_fork

from beam_jobs import embed_items, prepare_sequences
from seqrec_tf import check, evaluate, export, manifest, train

PARTS = ("faults", "writers", "disks", "kills")
IMPORTED = (embed_items, prepare_sequences, check, evaluate, export, train)
SMALL = "--set model.dim=16 model.num_blocks=1 model.max_len=12 data.batch_size=32"
PREPARE = "prepare --input {shop}/events.csv --items {shop}/items.csv --item-feature title:text --output {out}"
TRAIN = f"train --no-report --dataset {{copy}} --model sasrec --output {{out}} {SMALL} train.epochs=2"
GO_ON = f"train --no-report --dataset {{shop}}/dataset --model sasrec --output {{copy}} {SMALL} train.epochs=4"
EVALUATE = "evaluate --run {shop}/run --dataset {copy}"
CHECK = "check {copy}"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is done to a folder.

    Attributes:
        name: What it is.
        of: The folder (or file) of the shop that a copy is made of.
        damage: Takes the copy, and damages it.
        commands: What reads it; `{copy}`, `{shop}` and `{out}` are filled in. Each has a fresh copy.
        status: The exit status that each must have.
        words: A regular expression that its sentence must match.
    """

    name: str
    of: str
    damage: Callable[[pathlib.Path], object]
    commands: tuple[str, ...]
    status: int
    words: str


FAULTS = [
    *(
        Fault(
            f"{split} shard {what}",
            "dataset",
            each_of(split, function),
            (command,),
            2,
            rf"{split}/part-.* {words}",
        )
        for split, command in (("train", TRAIN), ("valid", TRAIN), ("test", EVALUATE))
        for what, function, words in (
            ("cut to 60 %", cut, "cut short"),
            ("with half its records", halve_records, "bytes where"),
            ("with a flipped bit", flip, "is not what was written"),
            ("of foreign records", foreign_records, "bytes where"),
            ("of foreign records of the same size", of_same_size, "is not what was written"),
            ("that is a text file", lambda file: file.write_text("hello\n"), "bytes where"),
            ("that is empty", lambda file: file.write_bytes(b""), "it is empty"),
            ("missing", pathlib.Path.unlink, "is missing"),
        )
    ),
    *(
        Fault(f"{name} {what}", "dataset", damage, (TRAIN, EVALUATE), 2, re.escape(name))
        for name in ("stats.json", "schema.json", "vocabularies/item_id.txt", "vocabularies/item_count.txt")
        for what, damage in (("of another dataset", replace(name, "other")), ("missing", remove(name)))
    ),
    Fault("items shard with a flipped bit", "dataset", each_of("items", flip), (CHECK,), 3, "items/part-"),
    Fault("train shard with a flipped bit", "dataset", each_of("train", flip), (CHECK,), 3, "train/part-"),
    Fault(
        "vectors with a flipped bit",
        "dataset",
        lambda f: [flip(v) for v in f.glob("vectors/*/*.gz")],
        (CHECK,),
        3,
        "vec",
    ),
    Fault(
        "encoder.json cut", "dataset", lambda folder: cut(folder / "vectors/title/encoder.json"), (CHECK,), 3, "encoder"
    ),
    Fault(
        "encoder.json cut", "dataset", lambda folder: cut(folder / "vectors/title/encoder.json"), (TRAIN,), 2, "encoder"
    ),
    Fault("COMPLETED cut", "dataset", lambda folder: cut(folder / "COMPLETED"), (TRAIN,), 2, "COMPLETED"),
    Fault(
        "COMPLETED with a flipped bit", "dataset", lambda folder: flip(folder / "COMPLETED"), (TRAIN,), 2, "COMPLETED"
    ),
    Fault("COMPLETED missing", "dataset", remove("COMPLETED"), (TRAIN, CHECK), 2, "it has no COMPLETED file"),
    *(
        Fault(f"newest checkpoint: {what}", "unfinished", newest_checkpoint(pattern, damage), (GO_ON,), 0, "")
        for what, pattern, damage in (
            ("data cut", "ckpt-*.data*", cut),
            ("data with a flipped bit", "ckpt-*.data*", flip),
            ("data missing", "ckpt-*.data*", pathlib.Path.unlink),
            ("index cut", "ckpt-*.index", cut),
            ("index with a flipped bit", "ckpt-*.index", flip),
            ("index missing", "ckpt-*.index", pathlib.Path.unlink),
        )
    ),
    Fault("`checkpoint` missing", "unfinished", remove("checkpoints/checkpoint"), (GO_ON,), 0, ""),
    Fault(
        "all checkpoints cut",
        "unfinished",
        in_folder("checkpoints/ckpt-*.data*", cut),
        (GO_ON,),
        2,
        "None of the checkpoints",
    ),
    Fault("checkpoints missing", "unfinished", remove("checkpoints"), (GO_ON,), 2, "whose checkpoints are gone"),
    *(
        Fault(f"{name} {what}", "run", damage, ("evaluate --run {copy}", "export --run {copy} --output {out}"), 2, name)
        for name in ("best.keras", "config.toml", "dataset.json")
        for what, damage in (
            ("cut", in_folder(name, cut)),
            ("with a flipped bit", in_folder(name, flip)),
            ("missing", remove(name)),
        )
    ),
    *(
        Fault(f"{name} {what}", "models/shop", damage, (CHECK,), 3, name)
        for name in ("saved_model.pb", "assets.extra/golden_requests.json")
        for what, damage in (
            ("cut", in_folder(f"1/{name}", cut)),
            ("with a flipped bit", in_folder(f"1/{name}", flip)),
            ("missing", remove(f"1/{name}")),
        )
    ),
]


# The shop.


def make_events(path: pathlib.Path, seed: int) -> None:
    """Users who go round a circle of items, mostly."""
    draw = random.Random(seed)
    with path.open("w", newline="") as stream:
        write = csv.writer(stream).writerow
        write(["user_id", "item_id", "timestamp"])
        for user in range(300):
            item = draw.randrange(40)
            for place in range(draw.randrange(5, 12)):
                write([f"u{user}", f"i{item}", 1_000_000 * place + user])
                item = (item + 1) % 40 if draw.random() < 0.9 else draw.randrange(40)


class Encoder(tf.Module):
    """The length of a text, and one."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        """float32 [B, 2]."""
        length = tf.cast(tf.strings.length(texts), tf.float32)
        return tf.stack([length, tf.ones_like(length)], axis=1)


def make_shop(shop: pathlib.Path) -> None:
    """Everything that faults are injected into, by the commands themselves."""
    shop.mkdir()
    make_events(shop / "events.csv", 0)
    make_events(shop / "events2.csv", 1)
    rows = [f"i{item},{'thing ' * (item % 5 + 1)}{item}\n" for item in range(40)]
    (shop / "items.csv").write_text("item_id,title\n" + "".join(rows))
    in_fork(lambda: tf.saved_model.save(Encoder(), str(shop / "encoder")))
    for command in (
        PREPARE.format(shop=shop, out=shop / "dataset"),
        PREPARE.format(shop=shop, out=shop / "other").replace("events.csv", "events2.csv") + " --duplicates all",
        f"embed --dataset {shop}/dataset --text-encoder {shop}/encoder",
        TRAIN.format(copy=shop / "dataset", out=shop / "run"),
        TRAIN.format(copy=shop / "dataset", out=shop / "unfinished").replace("epochs=2", "epochs=3"),
        TRAIN.format(copy=shop / "dataset", out=shop / "four").replace("epochs=2", "epochs=4"),
        f"export --run {shop}/run --output {shop}/models/shop",
    ):
        outcome = call(command)
        if outcome.status:
            raise RuntimeError(f"seqrec {command}\n{outcome.err}")
    (shop / "unfinished" / "COMPLETED").unlink()


# The table.


class Table:
    """Rows that are shown as they come; `failures` counts those that are not as expected."""

    def __init__(self):
        self.failures = 0
        self._show("what was done", "command", "times", "exit", "as expected", "what was lost; what was said")

    def row(self, what: str, command: str, times: int, status: str, *, is_right: bool, said: str) -> None:
        """Show a row."""
        self.failures += not is_right
        self._show(what, command.split()[0], str(times), status, "yes" if is_right else "NO", said)

    @staticmethod
    def _show(*cells: str) -> None:
        print("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |", flush=True)


def try_fault(fault: Fault, shop: pathlib.Path, table: Table) -> None:
    """Damage copies of a folder, and run what reads them."""
    for command in fault.commands:
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            (place / "shop").symlink_to(shop)
            copy, out = place / "copy", place / "out"
            (shutil.copytree if (shop / fault.of).is_dir() else shutil.copy)(shop / fault.of, copy)
            fault.damage(copy)
            outcome = call(command.format(copy=copy, shop=shop, out=out))
            is_right, lost = (
                outcome.status == fault.status and bool(re.search(fault.words, outcome.sentence)),
                "nothing",
            )
            if command == GO_ON and not fault.status:
                said = [line for line in outcome.out.split("\n") if "is damaged" in line or "Going on" in line]
                same = losses(copy) == losses(shop / "four")
                kept = int(re.search(r"after epoch (\d+)", " ".join(said))[1])
                is_right, lost = is_right and same and bool(said), f"{3 - kept} epochs, done again"
                sentence = " ".join(said)
            else:
                sentence = outcome.sentence
                is_right = is_right and not out.exists()
            sentence = sentence.replace(folder + "/", "")
            table.row(fault.name, command, 1, str(outcome.status), is_right=is_right, said=f"{lost}; {sentence}")


def losses(run: pathlib.Path) -> list[dict[str, str]]:
    """The log of a run without times."""
    with (run / "log.csv").open() as stream:
        return [{key: row[key] for key in row if "seconds" not in key} for row in csv.DictReader(stream)]


def try_writers(shop: pathlib.Path, table: Table) -> None:
    """Two commands at once into one folder: one does it, the other says that it is taken."""
    for command in (
        PREPARE,
        TRAIN.replace("epochs=2", "epochs=6").replace("{copy}", "{shop}/dataset"),
        "embed --dataset {copy} --text-encoder {shop}/encoder --overwrite",
        "export --run {shop}/run --output {out}",
    ):
        with tempfile.TemporaryDirectory() as folder:
            copy, out = pathlib.Path(folder, "copy"), pathlib.Path(folder, "out")
            shutil.copytree(shop / "dataset", copy)
            both = [Running(command.format(copy=copy, shop=shop, out=out)) for _ in range(2)]
            outcomes = sorted((process.outcome() for process in both), key=lambda outcome: outcome.status)
            statuses = [outcome.status for outcome in outcomes]
            is_right = statuses == [0, 2] and "is being written by another process" in outcomes[1].err
            said = outcomes[1].sentence.replace(folder + "/", "")
            is_right = is_right and call(f"check {copy if 'embed' in command else out}").status == 0
            table.row("two at once", command, 1, str(statuses), is_right=is_right, said=f"nothing; {said}")


@contextlib.contextmanager
def disk(kind: str) -> Iterator[tuple[pathlib.Path, Callable[[], object] | None]]:
    """A folder on a disk that is "full" or "read-only", and what a command does first where a mount is not allowed."""
    with tempfile.TemporaryDirectory() as folder:
        options = "size=512k" if kind == "full" else "ro"
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, check=False
        )
        if mount.returncode == 0:
            try:
                yield pathlib.Path(folder), None
            finally:
                subprocess.run(["umount", "-l", folder], check=True)
        elif kind == "full":
            yield pathlib.Path(folder), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        else:
            os.chmod(folder, 0o555)
            yield pathlib.Path(folder), None


def try_disks(shop: pathlib.Path, table: Table) -> None:
    """Output where it cannot be written: the same status for the same kind, the path named, nothing left."""
    for kind, status in (("full", 1), ("read-only", 2)):
        for command in (
            PREPARE,
            "embed --dataset {out} --text-encoder {shop}/encoder --overwrite",
            TRAIN.replace("{copy}", "{shop}/dataset"),
            "export --run {shop}/run --output {out}",
            "evaluate --run {shop}/run --json {out}.json",
        ):
            with disk(kind) as (folder, before):
                out = folder / "out"
                if "embed" in command:
                    if kind == "read-only":
                        continue  # nothing can be copied there
                    shutil.copytree(shop / "dataset", out, ignore=shutil.ignore_patterns("vectors"))
                if kind == "full":
                    is_small = command.startswith(("embed", "evaluate"))  # they write less than a page or two
                    free = shutil.disk_usage(folder).free - (0 if is_small else 24 << 10)
                    (folder / "filler").write_bytes(bytes(min(free, 1 << 20)))
                outcome = call(command.format(shop=shop, out=out), before=before)
                left = [file.name for file in folder.iterdir() if file.name not in ("out", "filler")]
                is_right = outcome.status == status and str(folder) in outcome.sentence and not left
                # A dataset stays, a run with a whole epoch can go on; of the others nothing may be left.
                may_stay = command.startswith("embed") or any(out.glob("checkpoints/*.index"))
                is_right = is_right and (may_stay or not out.exists())
                said = outcome.sentence.replace(str(folder), "DISK")
                table.row(f"{kind} disk", command, 1, str(outcome.status), is_right=is_right, said=f"nothing; {said}")


def same_files(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether two folders hold the same, by their manifests; and what the manifests say is true."""
    ours, theirs = manifest.read(first), manifest.read(second)
    return ours.files == theirs.files and not ours.damaged()


def same_vectors(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether two datasets have the same vectors; the names of their files are drawn."""
    ours, theirs = (manifest.read_vectors(str(folder), "title") for folder in (first, second))
    content = [sorted((file.crc32c, file.records) for file in one[1].files.values()) for one in (ours, theirs)]
    return content[0] == content[1] and not ours[1].damaged()


def same_answers(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether two models give the same answers to their golden requests."""
    golden = [json.loads((model / "1/assets.extra/golden_requests.json").read_text()) for model in (first, second)]
    return golden[0] == golden[1] and not manifest.read(first / "1").damaged()


def same_run(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether two runs have the same log and the same best weights."""

    def weights(run):
        import zipfile

        with zipfile.ZipFile(run / "best.keras") as archive:
            return archive.read("model.weights.h5")

    return losses(first) == losses(second) and weights(first) == weights(second) and not manifest.read(first).damaged()


def try_kills(number: int, shop: pathlib.Path, table: Table, seed: int) -> None:
    """Kill each of the writing commands at random moments, and give it again."""
    draw = random.Random(seed)
    for command, reference, same in (
        (PREPARE, "dataset", same_files),
        ("embed --dataset {out} --text-encoder {shop}/encoder --overwrite", "dataset", same_vectors),
        (TRAIN.replace("{copy}", "{shop}/dataset").replace("epochs=2", "epochs=4"), "four", same_run),
        ("export --run {shop}/run --output {out} --version 1", "models/shop", same_answers),
    ):
        seconds, equal, killed, statuses, left = None, 0, 0, set(), set()
        for _ in range(number + 1):
            with tempfile.TemporaryDirectory() as folder:
                out = pathlib.Path(folder, "out")
                if "embed" in command:
                    shutil.copytree(shop / "dataset", out, ignore=shutil.ignore_patterns("vectors"))
                filled = command.format(shop=shop, out=out)
                if seconds is None:  # undisturbed, to know how long it takes
                    seconds = call(filled).seconds
                    continue
                first = call(filled, kill_after=draw.uniform(0.0, seconds))
                killed += first.status < 0
                if first.status < 0:
                    again = call(filled)
                    statuses.add(again.status)
                    # Done before the kill came, and its folder is there: that is no loss.
                    is_done = again.status == 2 and re.search("already|finished run", again.err)
                    equal += bool(not again.status or is_done) and same(out, shop / reference)
                else:
                    equal += same(out, shop / reference)
                left |= {file.name for file in pathlib.Path(folder).iterdir()} - {"out"}
        said = f"{equal} of {number} end with the same bytes or figures; left beside: {', '.join(left) or 'nothing'}"
        table.row(
            "killed, given again",
            command,
            killed,
            ", ".join(map(str, sorted(statuses))),
            is_right=equal == number and not left,
            said=said,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to do (default: all)")
    parser.add_argument("--kills", type=int, default=20, help="of each command (default %(default)s)")
    parser.add_argument("--only", default="", metavar="WORD", help="faults with this word in their name alone")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    args = parser.parse_args(argv)
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        shop = pathlib.Path(folder, "shop")
        make_shop(shop)
        for fault in FAULTS:
            if "faults" in args.parts and args.only in fault.name:
                try_fault(fault, shop, table)
        if "writers" in args.parts:
            try_writers(shop, table)
        if "disks" in args.parts:
            try_disks(shop, table)
        if "kills" in args.parts:
            try_kills(args.kills, shop, table, args.seed)
    print(f"{table.failures} rows are not as expected." if table.failures else "All as expected.")
    return int(table.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
