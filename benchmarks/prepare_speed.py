"""Events that `seqrec prepare` reads, orders and writes a second, and its memory, as the number of events grows.

    python benchmarks/prepare_speed.py --events 1000000 10000000 --workers 1 2

Users have 50 events on average, of a catalogue of 100,000 items with popularity 1 / rank, in no order, as one CSV file.
Memory is the most that the main process, and the largest of Beam's workers, has had. On one machine Beam's runner keeps
between two stages what one gives to the other, in the memory of the main process; Dataflow does not.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

CHUNK = 1_000_000


def main() -> None:
    """Measure each size with each number of workers, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=pathlib.Path, help="folder for what is made; a temporary one by default")
    args = parser.parse_args()
    print(f"{'events':>12}{'workers':>9}{'seconds':>9}{'events/s':>11}{'main GB':>9}{'worker GB':>11}")
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        for events in args.events:
            source = pathlib.Path(folder) / "events.csv"
            write_events(source, events)
            for workers in args.workers:
                output = pathlib.Path(folder) / "dataset"
                seconds, main_gb, worker_gb = prepare(source, output, workers)
                rate = events / seconds
                print(
                    f"{events:>12,}{workers:>9}{seconds:>9.1f}{rate:>11,.0f}{main_gb:>9.2f}{worker_gb:>11.2f}",
                    flush=True,
                )
                shutil.rmtree(output)


def write_events(path: pathlib.Path, number: int) -> None:
    """A CSV file of `number` events."""
    rng = np.random.default_rng(0)
    shares = np.cumsum(1.0 / np.arange(1, 100_001))
    with path.open("w") as stream:
        stream.write("user_id,item_id,timestamp\n")
        for first in range(0, number, CHUNK):
            size = min(CHUNK, number - first)
            users = rng.integers(0, max(1, number // 50), size)
            items = np.searchsorted(shares, rng.random(size) * shares[-1])
            times = rng.integers(1_600_000_000, 1_700_000_000, size)
            stream.writelines(f"u{user},i{item},{at}\n" for user, item, at in zip(users, items, times, strict=True))


def prepare(source, output, workers) -> tuple[float, float, float]:
    """Seconds of the command, and the most memory of its main process and of the largest of its workers, GB."""
    command = [sys.executable, "-m", "seqrec_tf.cli", "prepare", "--input", str(source), "--output", str(output)]
    if workers > 1:
        command += [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peaks: dict[int, float] = {}
    watcher = threading.Thread(target=watch, args=(process.pid, peaks), daemon=True)
    watcher.start()
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} failed; run it to see why.")
    seconds = time.perf_counter() - started
    main_gb = peaks.pop(process.pid)
    return seconds, main_gb, max(peaks.values(), default=0.0)


def watch(root: int, peaks: dict[int, float]) -> None:
    """Keep the most memory of a process and of what it has started, by their ids, as long as it lives."""
    while pathlib.Path(f"/proc/{root}").exists():
        parents, sizes = {}, {}
        for status in pathlib.Path("/proc").glob("[0-9]*/status"):
            try:
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
                pid = int(fields["Pid"])
                parents[pid] = int(fields["PPid"])
                sizes[pid] = int(fields["VmHWM"].split()[0]) / 1e6
            except (OSError, KeyError, ValueError):
                continue  # it has ended, or has no memory of its own
        for pid, size in sizes.items():
            ancestor = pid
            while ancestor != root and ancestor in parents:
                ancestor = parents[ancestor]
            if ancestor == root:
                peaks[pid] = max(size, peaks.get(pid, 0.0))
        time.sleep(0.25)


if __name__ == "__main__":
    main()
