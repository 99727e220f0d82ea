"""Whether two checkouts of this project prepare the same bytes, for each preset and a matrix of options.

    git worktree add ../before COMMIT
    python benchmarks/prepare_equality.py ../before .

Compared are the status, the records (decompressed), vocabularies, schema, statistics and rejected lines. Events are
generated, and dirty: fields of all kinds that files have by mistake. Public data sets are read where --data has them.

Options, statistics and declarations of the schema that the version before did not have are no difference, nor is the
fingerprint that holds them. Where ids were brought to their normal form, a difference says so.
Of three differences it is known that they are none of the data, so these are not shown:
- the records of items, and the rejected lines, are compared in their order, in however many files they are: the bytes
  of the input decide how many, and the number of its files and ranges does no more;
- where items are in another number of files, the fingerprint differs, which covers the names of files;
- `stats.json` repeats options that the older checkout does not have, and detail sentences of rejected lines name them;
  where a line is a sequence, it says that there is no column of items.
"""

import argparse
import gzip
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

DAY = 86_400
FIRST = 1_700_000_000
# Each line a case: options, beside those of the columns.
MATRIX = """
--max-rejected 1
--max-rejected 0
--num-shards 3
--max-events 5
--range-bytes 1000 --num-shards 2
--min-item-events 3 --min-user-events 4
--min-item-events 5 --min-user-events 5 --filter-rounds 4
--duplicates consecutive
--duplicates all --max-length 6
--label-column rating --label-threshold 3
--label-column rating --label-threshold 3 --positive-only --duplicates all --min-user-events 3
--label-column rating --max-rejected 1
--time-column none
--time-format order --max-rejected 1
--time-format ms --max-rejected 1
--session-column visit
--user-column none --session-column visit --record-order time
--session-column visit --split last-days --test-days 2 --valid-days 3
--session-column visit --split last-days --test-days 0.01
--split time --test-from {late} --valid-from {middle}
--split time --test-from {late}.5 --unseen-items drop
--split time --test-from 2023-11-20T12:00:00 --valid-from 2023-11-18 --unseen-items drop --record-order time
--valid-share 0.3 --num-shards 4
--valid-share 0
--hold-out-items 0.2
--record-order time --num-shards 2
--split files --test-input {test} --valid-input {valid}
--split files --test-input {test} --valid-sequences 20
--split files --test-input {test} --record-order time --session-column visit
--items {items}
--items {items} --require-items
--items {items} --require-item-features title,price --min-user-events 3
--items {items} --range-bytes 500
--items {items_json} --item-feature price:number tags:categories
--items {items_parquet} --split time --test-from {late}
--users {users}
--users {users} --session-column visit --split time --test-from {late} --record-order time
--users {users} --items {items} --num-shards 2 --positive-only --label-column rating --label-threshold 2
--min-user-events 1000
"""
FORMATS = (
    "csv",
    "csv.gz",
    "tsv",
    "quoted.csv",
    "double-colon.dat",
    "jsonl",
    "parquet",
    "ms.csv",
    "iso.csv",
    "float.csv",
    "ids.csv",
)
PRESETS = (
    ("movielens-100k", "ml-100k", ""),
    ("movielens-1m", "ml-1m", "--min-item-events 5"),
    ("amazon-beauty", "amazon-beauty", ""),
    ("retailrocket", "retailrocket", ""),
    ("retailrocket", "retailrocket", "--split leave-one-out --min-item-events 5 --filter-rounds 3"),
)
CHILD = """
import json, os, sys
from seqrec_tf import cli
for name, arguments in json.load(sys.stdin):
    sys.stderr.write(f"=== {name}\\n")
    status = cli.main(["prepare", *arguments])
    sys.stderr.write(f"status {status}\\n")
"""


def main() -> None:
    """Prepare each case by both checkouts and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("SEQREC_DATA_DIR", "../shared/data"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        cases = generated_cases(folder, random.Random(0))
        for preset, data, more in PRESETS:
            if (pathlib.Path(args.data) / data).is_dir():
                given = ["--preset", preset, "--input", str((pathlib.Path(args.data) / data).resolve()), *more.split()]
                cases.append((f"--preset {preset} {more}", given))
        outcomes = [
            run(checkout, cases, folder / place) for place, checkout in (("before", args.before), ("after", args.after))
        ]
        num_different = num_mended = 0
        for number, (case, _) in enumerate(cases):
            before, after = outcomes[0][number], outcomes[1][number]
            forget_known_differences(before, after)
            paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
            differences = [one for path in paths for one in named(path, before.get(path), after.get(path))]
            mended = mended_ids(after)
            num_different += bool(differences) and not mended
            num_mended += bool(differences) and bool(mended)
            shown = f"DIFFERS: {', '.join(differences)}" if differences else f"the same {len(before)} files"
            if differences and mended:
                shown = f"ids were mended ({mended}), so these differ: {', '.join(differences)}"
            print(f"{case:<110} {shown}", flush=True)
        print(f"{len(cases)} cases, {num_different} differ, {num_mended} more where ids were mended")
        sys.exit(bool(num_different))


def forget_known_differences(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Make what the docstring of this file names the same on both sides."""
    stats = [json.loads(outcome.get("stats.json", b"{}")) for outcome in (before, after)]
    known = stats[0].get("options", {})
    for outcome, of_one in zip((before, after), stats, strict=True):
        files = sum(path.startswith("items/") for path in outcome)
        of_one["options"] = {name: value for name, value in of_one.get("options", {}).items() if name in known}
        if known.get("format") == "sequences":
            del of_one["options"]["item_column"]
        of_one["files of items"] = files
        for folder in ("items/", "rejected/", ".rejectedpart-"):
            paths = sorted(path for path in outcome if path.startswith(folder))
            if paths:
                outcome[f"{folder}*"] = b"".join(outcome.pop(path) for path in paths)
        for path in ("rejected/*", ".rejectedpart-*"):
            if path in outcome:
                rows = [json.loads(line) for line in outcome[path].splitlines()]
                kept = [{name: value for name, value in row.items() if name != "detail"} for row in rows]
                outcome[path] = json.dumps(kept).encode()
    if len({one.pop("files of items") for one in stats}) > 1:
        for one in stats:
            one.pop("fingerprint", None)
    for outcome, of_one in zip((before, after), stats, strict=True):
        if "stats.json" in outcome:
            outcome["stats.json"] = json.dumps(of_one).encode()


def named(path: str, before: bytes | None, after: bytes | None) -> list[str]:
    """How to name the difference of a file: of JSON by each key, but for those that are new."""
    if not path.endswith(".json") or before is None or after is None:
        return [path]
    flat = [dict(flattened(json.loads(content))) for content in (before, after)]
    different = [key for key in sorted(flat[0]) if flat[0][key] != flat[1].get(key) and key != "fingerprint"]
    return [f"{path} {key}" for key in different]


def mended_ids(content: dict[str, bytes]) -> str:
    """Which ids of a dataset were brought to their normal form, in words."""
    ids = json.loads(content["stats.json"]).get("ids", ()) if "stats.json" in content else ()
    return ", ".join(f"{row['rows']:,} {row['of']} ids: {row['mended']}" for row in ids)


def flattened(value, prefix: str = ""):
    """Each value of nested dicts, with the names that lead to it."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, one in value.items():
        yield from flattened(one, f"{prefix}.{key}" if prefix else key)


def generated_cases(folder: pathlib.Path, generator: random.Random) -> list[tuple[str, list[str]]]:
    """Write the files; each case has a name and the options that it gives."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {
            "user": f"u{int(generator.paretovariate(0.6)) % 300}",
            "item": f"i{int(generator.paretovariate(0.5)) % 400}",
            "at": FIRST + generator.randrange(12 * DAY) // 600 * 600,
            "rating": generator.randrange(1, 6),
            "visit": f"v{generator.randrange(900)}",
        }
        for _ in range(6_000)
    ]
    names = list(rows[0])

    def text(rows, delimiter=",", header=True, fields=lambda row: map(str, row.values())):
        lines = [delimiter.join(names)] if header else []
        return "\n".join([*lines, *(delimiter.join(fields(row)) for row in rows)]) + "\n"

    def with_time(of):
        return text([row | {"at": of(row["at"])} for row in rows])

    def dirty(rows):
        for row in rows:
            yield row
            if generator.random() < 0.02:
                name = generator.choice(names)
                odd = generator.choice(
                    ["", " ", "ü", '"a""b"', "7.0", "NaN", "1e3", "x,y", '"', "-5", "5.5", "\r", "\x00"]
                )
                yield row | {name: odd}

    quoted = text(rows, fields=lambda row: (f'"{value}"' for value in row.values()))
    files = {
        "csv": text(dirty(rows)),
        "csv.gz": text(dirty(rows)),
        "tsv": text(dirty(rows), "\t"),
        "quoted.csv": quoted,
        "double-colon.dat": text(rows, "::", header=False),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "ms.csv": with_time(lambda at: at * 1000 + generator.randrange(2)),
        "iso.csv": with_time(
            lambda at: f"2023-11-{14 + (at - FIRST) // DAY:02d}T{at % DAY // 3600:02d}:00:0{at % 7}.5Z"
        ),
        "float.csv": with_time(lambda at: at + generator.randrange(3) / 4),
        "ids.csv": text(
            [
                row | {"user": f"{row['user'][1:]}{'.0' * (k % 3 == 0)}", "item": f"{row['item']}{' ' * (k % 2)}"}
                for k, row in enumerate(rows)
            ]
        ),
        "test.csv": text(rows[:500]),
        "valid.csv": text(rows[500:800]),
        "users.csv": "user,country,age\n"
        + "".join(f"u{k},c{k % 7},{k % 60}\n" for k in range(250))
        + "u1,zz,99\nu2,,x\n",
    }
    items = [
        {
            "item": f"i{k}",
            "title": f"thing {k}" if k % 9 else "",
            "price": k / 8 if k % 5 else None,
            "tags": f"a|t{k % 11}",
        }
        for k in range(350)
    ]
    csv = [",".join("" if value is None else str(value) for value in item.values()) for item in items]
    files["items.csv"] = (
        "\n".join(["item,title,price,tags", *csv, "i1,again,1,a", 'i2,"quo,ted",3,b', "i3,bad,much,c"]) + "\n"
    )
    files["items.jsonl"] = "".join(json.dumps(item | {"tags": [item["tags"], "b"]}) + "\n" for item in items)
    for name, content in files.items():
        data = content.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "parquet", row_group_size=1_000)
    parquet.write_table(pyarrow.Table.from_pylist(items), folder / "items.parquet")

    named = ["--user-column", "user", "--item-column", "item", "--time-column", "at", "--max-rejected", "0.9"]
    values = {"late": FIRST + 9 * DAY, "middle": FIRST + 7 * DAY, "items_json": folder / "items.jsonl"}
    values |= {name: folder / f"{name}.csv" for name in ("test", "valid", "items", "users")}
    values["items_parquet"] = folder / "items.parquet"
    cases = []
    for line in MATRIX.strip().splitlines():
        given = line.format(**values).split()
        ids = [f"--{one}-id-column={one}" for one in ("item", "user") if f"--{one}s" in given]
        cases.append((line, ["--input", str(folder / "csv"), "--format", "csv", *named, *ids, *given]))
    for name in FORMATS:
        format_ = name.removesuffix(".gz").rpartition(".")[2] or name
        given = ["--format", "csv" if format_ == "dat" else format_, *named]
        if format_ == "dat":
            given = [
                *[
                    "--format",
                    "csv",
                    "--delimiter",
                    "::",
                    "--user-column",
                    "0",
                    "--item-column",
                    "1",
                    "--time-column",
                    "2",
                ],
                "--max-rejected",
                "0.9",
            ]
        for more in ("", "--split time --test-from 2023-11-20T12:00:00.25 --num-shards 2"):
            cases.append((f"{name} {more}", ["--input", str(folder / name), *given, *more.split()]))
    return cases


def run(checkout: pathlib.Path, cases: list[tuple[str, list[str]]], outputs: pathlib.Path) -> list[dict[str, bytes]]:
    """What a checkout makes of each case: path to content, and the status."""
    outputs.mkdir()
    given = [(name, [*arguments, "--output", str(outputs / str(k))]) for k, (name, arguments) in enumerate(cases)]
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(given), env=environment, capture_output=True, text=True,
        check=True, cwd=outputs,
    )  # fmt: skip
    statuses = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("status ")]
    results = []
    for number, status in enumerate(statuses):
        content = {"status": status.encode()}
        for folder in (outputs / str(number), outputs / f"{number}.rejected"):
            for path in folder.rglob("*"):
                if path.is_file():
                    data = path.read_bytes()
                    name = f"{folder.suffix}{path.relative_to(folder)}"
                    content[name] = gzip.decompress(data) if path.suffix == ".gz" else data
        results.append(content)
    return results


if __name__ == "__main__":
    main()
