"""Users trained (or ranked for) a second, and memory: this project against RecTools, side by side in one run.

Both train SASRec on the leave-one-out training part of the same dataset folder: 2 blocks, 1 head, batch 128, dropout
0.2, Adam, the whole training step of each library with its own input pipeline. The two are started in turns, so that
a noisy machine disturbs both alike; the first epoch (or ranking) of each start, with compilation, does not count.

    python benchmarks/train_speed.py --dataset bench/ml-1m --max-len 200 --peer-python bench/rectools/bin/python

With --recommend, what is timed is not training: it is ranking the catalogue for every user, without the items of the
history, by `evaluate` (ranks of the test items and the lists of 20) and by RecTools' `recommend` (the lists alone).

The floor is what the matrix products of the epoch would take at the rate that this machine multiplies matrices of
2,048 x 2,048, over the time it took; of attention, all pairs of a history's own events count.
"""

import argparse
import csv
import dataclasses
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

from measures import epoch_seconds, matmul_rate, training_flops

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PEER_SCRIPT = pathlib.Path(__file__).parent / "peers" / "rectools_sasrec.py"


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one library took.

    Attributes:
        seconds: Of each epoch, or of each ranking.
        users: In each.
        peak_gb: Memory of the process.
        floor: Share of the time that its matrix products would take at the machine's best rate; None where not counted.
    """

    seconds: list[float]
    users: int
    peak_gb: float
    floor: float | None

    @property
    def rate(self) -> float:
        """Users a second, in the median."""
        return self.users / statistics.median(self.seconds)


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="dataset folder, split leave-one-out")
    parser.add_argument("--peer-python", help="interpreter of an environment with rectools[torch]; without, ours alone")
    parser.add_argument("--max-len", type=int, default=200)
    parser.add_argument("--dim", type=int, default=50)
    parser.add_argument("--loss", choices=("bce", "softmax"), default="bce")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each start")
    parser.add_argument("--rounds", type=int, default=2, help="starts of each")
    parser.add_argument("--steps", type=int, help="batches of the peer's epoch, where a whole one takes too long")
    parser.add_argument("--recommend", action="store_true", help="time ranking the catalogue instead")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)  # the timed process
    args = parser.parse_args()
    if args.ours:
        seconds = rank_ours(args) if args.recommend else time_ours(args)
        print(json.dumps({"seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
        return
    timings = compare(**{name: value for name, value in vars(args).items() if name != "ours"})
    what = "ranking all items" if args.recommend else args.loss
    users = timings["seqrec_tf"].users
    print(f"SASRec, {args.dataset}, L={args.max_len}, d={args.dim}, {what}, {users:,} users")
    print(
        f"{'':<12}{'s (median)':>12}{'fastest':>10}{'slowest':>10}{'users/s':>10}{'peak GB':>9}{'floor':>8}{'ratio':>8}"
    )
    lowest = min(timing.rate for timing in timings.values())
    for name, timing in timings.items():
        floor, ratio = "" if timing.floor is None else f"{timing.floor:.0%}", timing.rate / lowest
        print(
            f"{name:<12}{statistics.median(timing.seconds):>12.2f}{min(timing.seconds):>10.2f}"
            f"{max(timing.seconds):>10.2f}{timing.rate:>10,.0f}{timing.peak_gb:>9.2f}{floor:>8}{ratio:>8.2f}"
        )


def compare(
    dataset, peer_python=None, max_len=200, dim=50, loss="bce", epochs=3, rounds=2, steps=None, recommend=False
) -> dict[str, Timing]:
    """Time both libraries; the arguments are the command's."""
    settings = ["--max-len", str(max_len), "--dim", str(dim), "--loss", loss, "--epochs", str(epochs + 1)]
    settings += ["--recommend"] if recommend else []
    sequences = list(read_sequences(dataset))
    with tempfile.TemporaryDirectory() as folder:
        events = pathlib.Path(folder) / "events.csv"
        with events.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["user_id", "item_id", "order"])
            for user, items in enumerate(sequences):
                writer.writerows((user, item, order) for order, item in enumerate(items))
        commands = {"seqrec_tf": [sys.executable, __file__, "--ours", "--dataset", str(dataset), *settings]}
        if peer_python:
            commands["rectools"] = [peer_python, str(PEER_SCRIPT), str(events), *settings]
            commands["rectools"] += ["--steps", str(steps)] if steps else []
        seconds, peak = {name: [] for name in commands}, dict.fromkeys(commands, 0.0)
        for _ in range(rounds):
            for name, command in commands.items():
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                answer = json.loads(done.stdout.splitlines()[-1])
                seconds[name] += answer["seconds"][1:]
                peak[name] = max(peak[name], answer["peak_gb"])
    users, floor = dict.fromkeys(commands, len(sequences)), None
    if steps:
        users["rectools"] = 128 * steps
    if not recommend:
        from seqrec_tf.records import DatasetFolder

        scored = 2 if loss == "bce" else DatasetFolder(dataset).num_items
        lengths = [min(len(items) - 1, max_len) for items in sequences]
        floor = training_flops(lengths, dim=dim, blocks=2, scored=scored) / matmul_rate()
    return {
        name: Timing(
            times, users[name], peak[name], floor and floor * users[name] / len(sequences) / statistics.median(times)
        )
        for name, times in seconds.items()
    }


def read_sequences(dataset: str):
    """Training sequences of a dataset folder, lists of ids."""
    from seqrec_tf import records

    for batch in records.read_split(records.DatasetFolder(dataset), "train", ["item_ids"]):
        yield from batch["item_ids"].to_list()


def time_ours(args) -> list[float]:
    """Seconds of each training epoch of this project."""
    from seqrec_tf import config, data
    from seqrec_tf.learning import parallel
    from seqrec_tf.learning.optimizers import make_optimizer
    from seqrec_tf.models import SASRec
    from seqrec_tf.records import DatasetFolder
    from seqrec_tf.train import steps_at_once

    folder, options = DatasetFolder(args.dataset), {"max_len": args.max_len, "dim": args.dim, "loss": args.loss}
    parallel.limit_threads(SASRec.num_parts(SASRec.config_class(**options), folder.schema))
    model = SASRec.from_dataset(folder, **options)
    steps = data.steps_per_epoch(folder, 128)
    optimizer = make_optimizer(config.TrainConfig(), total_steps=1)
    model.compile(optimizer=optimizer, steps_per_execution=steps_at_once(steps))
    batches = data.load(folder, model, batch_size=128, epochs=range(args.epochs))
    return epoch_seconds(model, batches, args.epochs, steps)


def rank_ours(args) -> list[float]:
    """Seconds of each evaluation of an untrained model, which takes as long as one that has learned."""
    import time

    from seqrec_tf import evaluate
    from seqrec_tf.models import SASRec
    from seqrec_tf.records import DatasetFolder

    folder, seconds = DatasetFolder(args.dataset), []
    model = SASRec.from_dataset(folder, max_len=args.max_len, dim=args.dim)
    for _ in range(2):
        started = time.perf_counter()
        evaluate.evaluate(model, folder)
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
