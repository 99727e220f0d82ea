"""How fast `seqrec prepare` is, what memory it takes, and what people take who write it by hand.

    python benchmarks/prepare_speed.py --before ../before --peer-python bench/rectools/bin/python

Events are generated: users in no order, 10 or 100 events each on average, 100,000 items with popularity 1 / rank, as
CSV, Parquet, JSON lines, and CSV of which one line in a hundred is odd (a quote within a field). Each row is one
command, start and imports included, on the same files as the rows around it. `before` is another checkout of this
project. By hand: what is read is freed of items and then users with fewer than five events, sorted, grouped by user and
written as Parquet, by pandas and by Polars; and RecTools' `Dataset.construct` of what pandas reads, alone.

Memory is the most that the main process has had, and the most that all processes together had at one moment (pages that
they share count for each). The last four columns are seconds of all workers; moving tables is in the other three.
"""

import argparse
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

CHUNK = 1_000_000
ITEMS = 100_000
PARTS = ("reading", "steps", "writing", "moving tables")


@dataclasses.dataclass(frozen=True)
class Case:
    """One file and how it is prepared."""

    events: int
    per_user: int = 100
    format: str = "csv"
    workers: int = 1

    @property
    def file(self) -> str:
        """Name of the file."""
        suffix = {"odd": "odd.csv"}.get(self.format, self.format)
        return f"{self.events}-{self.per_user}.{suffix}"


CASES = (
    *(Case(1_000_000, per_user, workers=workers) for per_user in (10, 100) for workers in (1, 2)),
    *(Case(1_000_000, format=name) for name in ("parquet", "jsonl", "odd")),
    *(Case(10_000_000, per_user, workers=workers) for per_user in (10, 100) for workers in (1, 2)),
    *(Case(10_000_000, format=name, workers=workers) for name in ("parquet", "jsonl", "odd") for workers in (1, 2)),
    *(Case(100_000_000, per_user, workers=2) for per_user in (10, 100)),
)
# The version before walks every event: 25 minutes for more, and minutes for each row of so many.
MOST_BEFORE, MANY = 10_000_000, 10_000_000
# pandas and RecTools would need more memory for more than so many events.
MOST_BY_HAND = {"pandas": 10_000_000, "RecTools": 10_000_000}
BY_HAND = {
    "pandas": """
import sys, pandas as pd
events = pd.read_csv(sys.argv[1])
for column in ("item_id", "user_id"):
    events = events[events.groupby(column)[column].transform("size") >= 5]
events = events.sort_values(["user_id", "timestamp"])
events.groupby("user_id").agg({"item_id": list, "timestamp": list}).to_parquet(sys.argv[2])
""",
    "Polars": """
import sys, polars as pl
events = pl.read_csv(sys.argv[1])
for column in ("item_id", "user_id"):
    events = events.filter(pl.len().over(column) >= 5)
events = events.sort("user_id", "timestamp").group_by("user_id", maintain_order=True)
events.agg("item_id", "timestamp").write_parquet(sys.argv[2])
""",
    "RecTools": """
import sys, pandas as pd
from rectools.dataset import Dataset
events = pd.read_csv(sys.argv[1]).rename(columns={"timestamp": "datetime"})
events["datetime"] = pd.to_datetime(events["datetime"], unit="s")
Dataset.construct(events.assign(weight=1.0))
""",
}


def main() -> None:
    """Measure each case, beside the version before and by hand, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--before", type=pathlib.Path, help="another checkout of this project")
    parser.add_argument("--peer-python", help="Python of an environment with pandas, Polars and RecTools")
    parser.add_argument("--peers", nargs="*", default=list(BY_HAND), choices=BY_HAND)
    parser.add_argument("--work", type=pathlib.Path, help="folder for what is made; a temporary one by default")
    args = parser.parse_args()
    print(
        f"{'events':>12}{'a user':>7} {'format':<8}{'by':<9}{'workers':>7}{'seconds':>9}{'events/s':>12}{'main GB':>9}"
        f"{'all GB':>8}" + "".join(f"{part:>{len(part) + 2}}" for part in PARTS)
    )
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        folder, last = pathlib.Path(name).resolve(), None
        for case in CASES:
            if case.events not in args.events:
                continue
            source = folder / case.file
            if source != last:
                if last is not None:
                    last.unlink()
                write_events(source, case)
                if args.peer_python and case.format == "csv":
                    for peer in args.peers:
                        if case.events > MOST_BY_HAND.get(peer, case.events):
                            continue
                        command = [args.peer_python, "-c", BY_HAND[peer], str(source), str(folder / "by-hand")]
                        show(case, peer, None, measure(command))
                last = source
            for by, checkout in (("before", args.before), ("this", pathlib.Path.cwd())):
                is_plain = (case.format, case.per_user) == ("csv", 100)
                if by == "this" or (checkout and case.events <= MOST_BEFORE and (is_plain or case.events < MANY)):
                    show(case, by, case.workers, prepare(source, folder / "dataset", case.workers, checkout))
                    shutil.rmtree(folder / "dataset")


@dataclasses.dataclass(frozen=True)
class Measured:
    """One command: its seconds, the memory of its main process and of all together, GB, and what it printed."""

    seconds: float
    main_gb: float
    all_gb: float
    out: str


def show(case: Case, by: str, workers: int | None, measured: Measured) -> None:
    """Print one row."""
    found = {part: re.search(rf"{part} ([\d.]+)", measured.out) for part in PARTS}
    parts = "".join(f"{match[1] if match else '':>{len(part) + 2}}" for part, match in found.items())
    print(
        f"{case.events:>12,}{case.per_user:>7} {case.format:<8}{by:<9}{workers or '':>7}{measured.seconds:>9.1f}"
        f"{case.events / measured.seconds:>12,.0f}{measured.main_gb:>9.2f}{measured.all_gb:>8.2f}{parts}",
        flush=True,
    )


def write_events(path: pathlib.Path, case: Case) -> None:
    """A file of generated events."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    shares = np.cumsum(1.0 / np.arange(1, ITEMS + 1))

    def named(letter: str, numbers) -> pa.Array:
        return pc.binary_join_element_wise(letter, pa.array(numbers).cast(pa.string()), "")

    writer = None
    with path.open("wb") as stream:
        for first in range(0, case.events, CHUNK):
            size = min(CHUNK, case.events - first)
            users = named("u", rng.integers(0, max(1, case.events // case.per_user), size))
            items = named("i", np.searchsorted(shares, rng.random(size) * shares[-1]))
            times = pa.array(rng.integers(1_600_000_000, 1_700_000_000, size))
            if case.format == "odd":
                is_odd = pa.array(np.arange(size) % 100 == 7)
                items = pc.if_else(is_odd, pc.binary_join_element_wise(items, '" disc', ""), items)
            table = pa.table({"user_id": users, "item_id": items, "timestamp": times})
            if case.format == "parquet":
                writer = writer or pyarrow.parquet.ParquetWriter(stream, table.schema)
                writer.write_table(table)
            elif case.format == "jsonl":
                texts = [
                    *('{"user_id": "', users, '", "item_id": "', items),
                    *('", "timestamp": ', times.cast(pa.string()), "}\n", ""),
                ]
                _, ends, text = pc.binary_join_element_wise(*texts).buffers()
                stream.write(memoryview(text)[: np.frombuffer(ends, np.int32)[size]])
            else:
                header = first == 0
                options = pyarrow.csv.WriteOptions(include_header=header, quoting_style="none", quoting_header="none")
                if case.format == "odd":  # the writer refuses quotes that it should not double
                    table = table.set_column(1, "item_id", pc.replace_substring(items, '"', "\x01"))
                    sink = pa.BufferOutputStream()
                    pyarrow.csv.write_csv(table, sink, options)
                    stream.write(sink.getvalue().to_pybytes().replace(b"\x01", b'"'))
                else:
                    pyarrow.csv.write_csv(table, stream, options)
        if writer is not None:
            writer.close()


def prepare(source: pathlib.Path, output: pathlib.Path, workers: int, checkout: pathlib.Path) -> Measured:
    """The command `seqrec prepare` of a checkout."""
    command = [sys.executable, "-m", "seqrec_tf.cli", "prepare", "--input", str(source), "--output", str(output)]
    if workers > 1:
        command += [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
    return measure(command, checkout)


def measure(command: Sequence[str], folder: pathlib.Path | None = None) -> Measured:
    """Run a command in a folder and watch its memory."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder)
    peaks = [0.0, 0.0]
    watcher = threading.Thread(target=watch, args=(process.pid, peaks), daemon=True)
    watcher.start()
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed; run it to see why.")
    return Measured(time.perf_counter() - started, *peaks, out)


def watch(root: int, peaks: list[float]) -> None:
    """Keep the most memory of a process, and of it and all that it has started, as long as it lives."""
    while pathlib.Path(f"/proc/{root}").exists():
        parents, sizes = {}, {}
        for status in pathlib.Path("/proc").glob("[0-9]*/status"):
            try:
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
                pid = int(fields["Pid"])
                parents[pid] = int(fields["PPid"])
                sizes[pid] = int(fields["VmRSS"].split()[0]) / 1e6
            except (OSError, KeyError, ValueError):
                continue  # it has ended, or has no memory of its own
        ours = {root}
        for pid in sorted(parents):
            ancestor = pid
            while ancestor not in ours and ancestor in parents:
                ancestor = parents[ancestor]
            if ancestor in ours:
                ours.add(pid)
        peaks[0] = max(peaks[0], sizes.get(root, 0.0))
        peaks[1] = max(peaks[1], sum(sizes.get(pid, 0.0) for pid in ours))
        time.sleep(0.1)


if __name__ == "__main__":
    main()
