"""What a training step costs as catalogue, length, batch and side features grow: time, and peak memory.

    python benchmarks/scale.py
    python benchmarks/scale.py length batch --plot growth.png

Each line is a process of its own. SASRec with 2 blocks, 1 head and one negative trains on random histories with Adam;
a step's time is the median of 5 times 20. "Before" is the memory of the model with its optimizer. Lines of "softmax"
are the loss over all items with its gradients alone, of 6,400 targets, once; what is before is the table.

The floor is what the matrix products of the step would take at the rate that this machine multiplies matrices of
2,048 x 2,048; of attention, all pairs of positions count, as in the formula, though half of them are never made.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from measures import matmul_rate, training_flops

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

STEPS, ROUNDS = 20, 5


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table: what grows, how far, and the model and batch.

    Attributes:
        what: The curve that it belongs to.
        label: Its place on the curve.
        items: Of the catalogue.
        max_len: Of the model.
        events: Of each history.
        batch: Histories.
        dim: Of the model.
        vectors: Width of each vector that an item has as a side feature.
        use: Of these vectors, as `model.item_vectors`.
    """

    what: str
    label: str
    items: int = 10_000
    max_len: int = 50
    events: int = 8
    batch: int = 128
    dim: int = 64
    vectors: tuple[int, ...] = ()
    use: str = "projected"


MOVIES = {"items": 3_416, "max_len": 200, "events": 200, "dim": 50}  # the shape of MovieLens 1M
SHOP = {"items": 100_000, "vectors": (4096, 768)}  # pictures and words
USES = ("projected", "frozen", "trained")
CURVES = {
    "items": [Line("items", f"{items:,}", items=items) for items in (10_000, 100_000, 1_000_000, 10_000_000)],
    "length": [
        Line("length", str(length), items=3_416, max_len=length, events=length, dim=50)
        for length in (25, 50, 100, 200, 400, 800)
    ],
    "batch": [Line("batch", str(batch), batch=batch) for batch in (32, 128, 512, 2048)],
    "features": [
        Line("features", "none", **MOVIES),
        *(Line("features", f"4,096, {use}", **MOVIES, vectors=(4096,), use=use) for use in USES),
    ],
    "shop": [
        Line("shop", "none", items=100_000),
        *(Line("shop", f"4,864, {use}", **SHOP, use=use) for use in USES),
    ],
    "softmax": [Line("softmax", f"{items:,}", items=items) for items in (100_000, 1_000_000)],
}


def main() -> None:
    """Measure each line, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=f"of {', '.join(CURVES)}; all where none is given")
    parser.add_argument(
        "--turns", type=int, default=1, help="times that a curve is measured; the fastest of a line counts"
    )
    parser.add_argument("--plot", metavar="FILE.png", help="draw the curves too; needs matplotlib")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the measured process
    args = parser.parse_args()
    if args.one:
        line = Line(**json.loads(args.one))
        (softmax if line.what == "softmax" else train)(line)
        return
    unknown = set(args.curves) - CURVES.keys()
    if unknown:
        parser.error(f"no curve {', '.join(sorted(unknown))}; there are {', '.join(CURVES)}")
    rate = matmul_rate()
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s")
    print(f"{'what grows':<12}{'to':>18}{'ms a step':>12}{'users/s':>10}{'of floor':>10}{'peak GB':>10}{'before':>9}")
    measured = {}
    for what in args.curves or CURVES:
        for line, (seconds, peak, before) in fastest(CURVES[what], args.turns):
            measured[line] = seconds, peak, before
            share, users = "", ""
            if what != "softmax":
                flops = training_flops([line.events] * line.batch, dim=line.dim, blocks=2, scored=2)
                share, users = f"{flops / rate / seconds:.0%}", f"{line.batch / seconds:,.0f}"
            print(
                f"{what:<12}{line.label:>18}{1000 * seconds:>12.1f}{users:>10}{share:>10}{peak:>10.2f}{before:>9.2f}",
                flush=True,
            )
    if args.plot:
        plot(measured, args.plot)


def fastest(lines: list[Line], turns: int):
    """Each line with the fastest of its measurements, which take turns, so that a noisy machine disturbs all alike."""
    if turns == 1:
        return ((line, measure(line)) for line in lines)
    measured = [[measure(line) for line in lines] for _ in range(turns)]
    return zip(lines, map(min, zip(*measured, strict=True)), strict=True)


def measure(line: Line) -> tuple[float, float, float]:
    """Seconds of a step, most memory, and memory before, GB; in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(dataclasses.asdict(line))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak, before = map(float, done.stdout.split())
    return seconds, peak, before


def plot(measured, path) -> None:
    """Draw time and memory of the curves along which a number grows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    names = [name for name in ("items", "length", "batch") if any(line.what == name for line in measured)]
    options = {"squeeze": False, "sharey": "row", "figsize": (4 * len(names), 6), "layout": "constrained"}
    figure, axes = pyplot.subplots(2, len(names), **options)
    for column, name in enumerate(names):
        of_curve = [(line.label.replace(",", ""), values) for line, values in measured.items() if line.what == name]
        sizes = [float(size) for size, _ in of_curve]
        times, peaks = [1000 * values[0] for _, values in of_curve], [values[1] for _, values in of_curve]
        for axis, label, heights in zip(axes[:, column], ("ms a step", "peak GB"), (times, peaks), strict=True):
            axis.plot(sizes, heights, marker="o")
            axis.set(xscale="log", yscale="log", xlabel=name, ylabel=label if not column else "")
            axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], minor=False)
            axis.set_xticks([], minor=True)
            axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            axis.yaxis.set_minor_formatter(ticker.NullFormatter())
            axis.grid(alpha=0.3, which="both")
    axes[1, 0].set_ylim(bottom=0.1)
    figure.savefig(path, dpi=100)
    print(f"drawn to {path}")


def peak_gb() -> float:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def train(line: Line) -> None:
    """Time a step of SASRec."""
    import numpy as np
    import tensorflow as tf

    from seqrec_tf.learning import parallel
    from seqrec_tf.learning.optimizers import Adam
    from seqrec_tf.models import SASRec
    from seqrec_tf.schema import ITEM_IDS, Feature, Schema

    features = tuple(Feature(f"v{width}", "float32", (width,), kind="vector") for width in line.vectors)
    config = SASRec.config_class(
        max_len=line.max_len,
        dim=line.dim,
        item_features=tuple(feature.name for feature in features),
        item_vectors=line.use,
    )
    schema = Schema(num_items=line.items, item_features=features)
    parallel.limit_threads(SASRec.num_parts(config, schema))
    model = SASRec(config, schema)
    random = np.random.default_rng(0)
    for table in model.item_features.tables if features else ():
        rows = max(1, 10_000_000 // table.shape[1])  # repeated, as drawing all of them takes minutes
        drawn = random.normal(size=[rows, table.shape[1]]).astype(table.dtype)
        table.assign(np.resize(drawn, table.shape))
    model.compile(Adam(1e-3))
    model.optimizer.build(model.trainable_variables)
    before = peak_gb()
    ids = random.integers(1, line.items, size=[line.batch, line.events + 1]).astype(np.int32)
    inputs = {ITEM_IDS: ids[:, :-1]} | ({"seen": ids} if model.objective.needs_seen else {})
    batches = tf.data.Dataset.from_tensors((inputs, ids[:, 1:])).repeat(STEPS)
    model.fit(batches.take(3), verbose=0)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        model.fit(batches, verbose=0)
        seconds.append(time.perf_counter() - started)
    print(statistics.median(seconds) / STEPS, peak_gb(), before)


def softmax(line: Line) -> None:
    """Time the loss over all items and its gradients."""
    import tensorflow as tf

    from seqrec_tf.learning import losses

    table, hidden = (tf.Variable(tf.random.normal([rows, line.dim], stddev=0.1)) for rows in (line.items, 6_400))
    targets = tf.random.uniform([6_400], 0, line.items, tf.int32)
    before = peak_gb()

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            values = losses.cross_entropy(hidden, tf.convert_to_tensor(table), None, targets)
            loss = tf.reduce_mean(values)
        return tape.gradient(loss, [hidden, table])

    started = time.perf_counter()
    step()
    print(time.perf_counter() - started, peak_gb(), before)


if __name__ == "__main__":
    main()
