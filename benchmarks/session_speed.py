"""Events that GRU4Rec trains on a second, on RetailRocket sessions, and a plain SASRec's step to compare machines by.

    python benchmarks/session_speed.py --dataset bench/retailrocket

GRU4Rec has 224 units, BPR-max, 2,048 samples beside the items of the batch, and batches of 40 sessions. Its authors'
TensorFlow code, with one event of each of 80 sessions in a batch, does 3,900 to 4,300 events a second on a machine
whose two cores take 330 ms for the plain step. That is SASRec of Keras' own layers, padded to 200 events, d = 50, 2
blocks, 1 head, batch 128, binary cross-entropy with one negative, Adam. The first epoch, or step, of each (compilation)
does not count.
"""

import argparse
import os
import pathlib
import statistics
import time
import tomllib

from measures import epoch_seconds

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "gru4rec_retailrocket.toml"
PLAIN_MS, AUTHORS = 330.0, 4100.0


def main() -> None:
    """Measure both, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="dataset folder of the preset retailrocket")
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs")
    args = parser.parse_args()
    events = session_events(args.dataset, args.epochs)
    plain = plain_step()
    here = AUTHORS * PLAIN_MS / plain
    print(f"plain SASRec            {plain:>10.0f} ms a step")
    print(f"GRU4Rec                 {events:>10,.0f} events/s")
    print(f"its authors' TensorFlow {here:>10,.0f} events/s, of 4,100 measured where the plain step took 330 ms")
    print(f"ratio                   {events / here:>10.2f}")


def session_events(dataset: str, epochs: int) -> float:
    """Events to predict that GRU4Rec trains on a second, the median of epochs."""
    from seqrec_tf import config, data
    from seqrec_tf.learning.optimizers import make_optimizer
    from seqrec_tf.models import GRU4Rec
    from seqrec_tf.records import DatasetFolder
    from seqrec_tf.train import steps_at_once

    options = tomllib.loads(CONFIG.read_text())
    folder, batch_size = DatasetFolder(dataset), options["data"]["batch_size"]
    model = GRU4Rec.from_dataset(folder, **options["model"])
    train = config.TrainConfig(**options["train"])
    steps = data.steps_per_epoch(folder, batch_size)
    model.compile(optimizer=make_optimizer(train, total_steps=1), steps_per_execution=steps_at_once(steps))
    targets = sum(int((labels.numpy() != 0).sum()) for _, labels, _ in data.load(folder, model, batch_size=batch_size))
    batches = data.load(folder, model, batch_size=batch_size, epochs=range(epochs + 1))
    return targets / statistics.median(epoch_seconds(model, batches, epochs + 1, steps)[1:])


def plain_step(steps: int = 10) -> float:
    """Milliseconds of a step of SASRec as one would write it with Keras' layers, the median."""
    import keras
    import numpy as np
    import tensorflow as tf

    batch, length, dim, items = 128, 200, 50, 3_416

    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            layers = keras.layers
            self.items, self.positions = layers.Embedding(items + 1, dim), layers.Embedding(length, dim)
            self.dropout = layers.Dropout(0.2)
            self.blocks = [
                (
                    layers.LayerNormalization(),
                    layers.MultiHeadAttention(1, dim, dropout=0.2),
                    layers.LayerNormalization(),
                    keras.Sequential(
                        [layers.Dense(dim, activation="relu"), layers.Dropout(0.2), layers.Dense(dim), self.dropout]
                    ),
                )
                for _ in range(2)
            ]
            self.norm = layers.LayerNormalization()

        def call(self, inputs, training=False):
            ids, positives, negatives = inputs
            x = self.items(ids) * dim**0.5 + self.positions(tf.range(length))
            x = self.dropout(x, training=training)
            for norm, attention, second_norm, feed_forward in self.blocks:
                y = norm(x)
                x = x + attention(y, y, use_causal_mask=True, training=training)
                x = x + feed_forward(second_norm(x), training=training)
            x = self.norm(x)
            return tf.stack([tf.reduce_sum(x * self.items(of), axis=-1) for of in (positives, negatives)], axis=-1)

    model = Plain()
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    inputs = [random.integers(1, items, size=[batch, length]).astype(np.int32) for _ in range(3)]
    labels = np.tile(np.array([1.0, 0.0], np.float32), [batch, length, 1])
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        model.train_on_batch(inputs, labels)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
