"""Time the training epochs of RecTools' SASRec. Runs in RecTools' own environment, started by `train_speed.py`.

Reads a CSV of user, item, order (header: user_id,item_id,order); prints seconds of each epoch, or of `recommend` for
all users after one step of training, and the peak of memory, as JSON.
"""

import argparse
import json
import logging
import resource
import time
import warnings

import pandas as pd
import pytorch_lightning as pl
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

parser = argparse.ArgumentParser()
parser.add_argument("events")
parser.add_argument("--max-len", type=int, required=True)
parser.add_argument("--dim", type=int, required=True)
parser.add_argument("--loss", choices=("bce", "softmax"), required=True)
parser.add_argument("--epochs", type=int, required=True)
parser.add_argument("--steps", type=int)
parser.add_argument("--recommend", action="store_true")
args = parser.parse_args()

events = pd.read_csv(args.events)
start = pd.Timestamp("2020-01-01")
interactions = pd.DataFrame(
    {
        Columns.User: events["user_id"],
        Columns.Item: events["item_id"],
        Columns.Weight: 1.0,
        Columns.Datetime: start + pd.to_timedelta(events["order"], unit="s"),
    }
)
seconds: list[float] = []


class Clock(pl.Callback):
    """Notes how long each epoch takes."""

    def on_train_epoch_start(self, trainer, module):
        """Note the time."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer, module):
        """Note the epoch's seconds."""
        seconds.append(time.perf_counter() - self.started)


def make_trainer() -> pl.Trainer:
    """A Lightning trainer that does nothing but train."""
    return pl.Trainer(
        max_epochs=1 if args.recommend else args.epochs,
        min_epochs=1 if args.recommend else args.epochs,
        limit_train_batches=1 if args.recommend else args.steps or 1.0,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    )


model = SASRecModel(
    n_blocks=2,
    n_heads=1,
    n_factors=args.dim,
    session_max_len=args.max_len,
    dropout_rate=0.2,
    loss={"bce": "BCE", "softmax": "softmax"}[args.loss],
    n_negatives=1,
    lr=1e-3,
    batch_size=128,
    epochs=args.epochs,
    get_trainer_func=make_trainer,
)
dataset = Dataset.construct(interactions)
model.fit(dataset)
if args.recommend:
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        model.recommend(users=events["user_id"].unique(), dataset=dataset, k=20, filter_viewed=True)
        seconds.append(time.perf_counter() - started)
print(json.dumps({"seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
