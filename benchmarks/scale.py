"""What a training step costs as the catalogue grows: time with a sampled loss, memory with the loss over all items.

    python benchmarks/scale.py

Each line is a process of its own. SASRec with d = 64, L = 50 and one negative trains on random histories of 8 events,
batch 128, with Adam; a step's time is the median of 5 times 50. The loss over all items, with its gradients, is that of
6,400 targets, once.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

STEPS, ROUNDS = 50, 5


def main() -> None:
    """Measure each size, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--softmax-items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # the measured process: what, items
    args = parser.parse_args()
    if args.one:
        what, items = args.one
        {"sampled": sampled, "softmax": softmax}[what](int(items))
        return
    print(f"{'loss':<10}{'items':>12}{'ms a step':>12}{'peak GB':>10}{'of it before':>14}")
    for what, sizes in (("sampled", args.items), ("softmax", args.softmax_items)):
        for items in sizes:
            command = [sys.executable, __file__, "--one", what, str(items)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            milliseconds, peak, before = map(float, done.stdout.split())
            print(f"{what:<10}{items:>12,}{milliseconds:>12.1f}{peak:>10.2f}{before:>14.2f}", flush=True)


def peak_gb() -> float:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def sampled(num_items: int) -> None:
    """Time a step of SASRec; memory before is that of the model with its optimizer."""
    import numpy as np
    import tensorflow as tf

    from seqrec_tf.models import SASRec
    from seqrec_tf.optimizers import Adam
    from seqrec_tf.schema import ITEM_IDS, Schema

    model = SASRec(SASRec.config_class(max_len=50, dim=64), Schema(num_items=num_items))
    model.compile(Adam(1e-3))
    model.optimizer.build(model.trainable_variables)
    before = peak_gb()
    ids = np.random.default_rng(0).integers(1, num_items, size=[128, 9]).astype(np.int32)
    batches = tf.data.Dataset.from_tensors(({ITEM_IDS: ids[:, :-1]}, ids[:, 1:])).repeat(STEPS)
    model.fit(batches.take(5), verbose=0)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        model.fit(batches, verbose=0)
        seconds.append(time.perf_counter() - started)
    print(1000 * statistics.median(seconds) / STEPS, peak_gb(), before)


def softmax(num_items: int) -> None:
    """Time the loss over all items and its gradients; memory before is that of the table."""
    import tensorflow as tf

    from seqrec_tf import losses

    table, hidden = (tf.Variable(tf.random.normal([rows, 64], stddev=0.1)) for rows in (num_items, 6_400))
    targets = tf.random.uniform([6_400], 0, num_items, tf.int32)
    before = peak_gb()

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            values = losses.cross_entropy(hidden, tf.convert_to_tensor(table), tf.zeros([num_items]), targets)
            loss = tf.reduce_mean(values)
        return tape.gradient(loss, [hidden, table])

    started = time.perf_counter()
    step()
    print(1000 * (time.perf_counter() - started), peak_gb(), before)


if __name__ == "__main__":
    main()
