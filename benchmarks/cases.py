"""Small inputs that go wrong elsewhere, prepared for real: what is right of each, and what came.

    python benchmarks/cases.py --cases ../shared/cases

Each folder of --cases holds one input. The exit status is 1 where something is not right.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

# Folder, arguments of `seqrec prepare` beside --output, and what is right: a function of the exit status, what was said
# and the dataset's statistics and item ids.
Right = Callable[[int, str, dict, list[str]], bool]


def users(stats):
    """Users after reading."""
    return stats["steps"][0]["users"] if stats else None


CASES: list[tuple[str, str, str, Right]] = [
    (
        "csv_ids_7_and_7.0",
        "--input a.csv b.csv",
        "one user for 7 and 7.0",
        lambda status, said, stats, items: status == 0 and not any("." in item for item in items),
    ),
    (
        "ids_with_spaces",
        "--input events.csv",
        "one user and item for both spellings",
        lambda status, said, stats, items: status == 0 and all(item == item.strip() for item in items),
    ),
    (
        "json_float_ids_over_2e53",
        "--input events.jsonl --max-rejected 1",
        "two users, or rejected with the reason",
        lambda status, said, stats, items: users(stats) == 2 or "float too large to be exact" in said,
    ),
    (
        "ms_with_fraction",
        "--input events.csv",
        "i1 before i2 ... before i6",
        lambda status, said, stats, items: status == 0,
    ),
    (
        "no_item_row_matches",
        "--input events.csv --items items.csv --item-feature price:number",
        "one sentence with an id of each side, or ids of one form",
        lambda status, said, stats, items: (
            status == 2 or (status == 0 and stats["items"]["without_side_information"] == 0)
        ),
    ),
    (
        "misleading_errors",
        "--input utf16.csv",
        "the sentence says UTF-16",
        lambda status, said, stats, items: status == 0 or (status == 2 and "utf-16" in said.lower()),
    ),
    (
        "misleading_errors",
        "--input array.json",
        "the sentence says JSON array",
        lambda status, said, stats, items: status == 2 and "one JSON array" in said,
    ),
    (
        "misleading_errors",
        "--input newlines.csv",
        "read, or the sentence says line break",
        lambda status, said, stats, items: status == 0 or "line break" in said or "quotes do not match" in said,
    ),
]


def order_of_items(output: pathlib.Path) -> list[str]:
    """The items of the first test sequence, in their order."""
    from seqrec_tf.records import DatasetFolder, read_split

    folder = DatasetFolder(output)
    batch = next(iter(read_split(folder, "test", ["item_ids"])))
    return [folder.item_ids[number - 1] for number in batch["item_ids"][0].numpy()]


def main() -> int:
    """Prepare each case, and show one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=os.environ.get("SEQREC_CASES_DIR", "../shared/cases"), help="folder of them")
    args = parser.parse_args()
    wrong = 0
    print(f"{'case':<26}{'status':>7}  {'right':<6}{'what is right':<58}what was said last")
    with tempfile.TemporaryDirectory() as folder:
        for number, (case, options, meaning, is_right) in enumerate(CASES):
            output = pathlib.Path(folder) / str(number)
            command = [sys.executable, "-m", "seqrec_tf", "prepare", *options.split(), "--output", str(output)]
            environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent.parent)}
            done = subprocess.run(
                command,
                cwd=pathlib.Path(args.cases) / case,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            is_made = (output / "stats.json").exists()
            stats = json.loads((output / "stats.json").read_text()) if is_made else {}
            items = (output / "vocabularies" / "item_id.txt").read_text().split("\n")[:-1] if is_made else []
            right = is_right(done.returncode, done.stderr + done.stdout, stats, items)
            if right and case == "ms_with_fraction":
                right = order_of_items(output) == sorted(items)
            wrong += not right
            last = (
                (done.stderr.strip().splitlines() or ["-"])[-1]
                if done.returncode
                else (f"{users(stats)} users, {len(items)} items")
            )
            print(f"{case:<26}{done.returncode:>7}  {'yes' if right else 'NO':<6}{meaning:<58}{last[:300]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
