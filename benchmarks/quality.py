"""Ranking quality on public data, beside the figures that others published.

    python benchmarks/quality.py ml1m-sasrec --seeds 0 1

A row is prepared, trained and evaluated by the commands a user would give, which are shown; what is finished is not
done again, but refused where its settings were others. Data is read from SEQREC_DATA_DIR (default ../shared/data);
everything made goes to --work.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import shlex
import subprocess
import sys
import tomllib

from seqrec_tf import quiet

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = pathlib.Path(os.environ.get("SEQREC_DATA_DIR", ROOT.parent / "shared" / "data"))
MODELS = DATA.parent / "models"  # pretrained encoders


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        dataset: One of `DATASETS`.
        model: Of `seqrec train`.
        config: File in `configs/`, without its extension.
        settings: What differs from it, as for `--set`.
        published: Figures to compare with: protocol to metric to (value, whose it is),
            or None where there is none.
    """

    dataset: str
    model: str
    config: str
    settings: str
    published: dict[str, dict[str, tuple[float, str] | None]]


def _row(dataset: str, config: str, settings: str = "", **published) -> Row:
    """A row of a dataset; `published` as in `Row`, protocols with _ for -."""
    model = tomllib.loads((ROOT / "configs" / f"{config}.toml").read_text())["model_name"]
    named = {protocol.replace("_", "-"): figures for protocol, figures in published.items()}
    return Row(dataset, model, config, settings, named)


DATASETS = {
    "ml-1m": "--preset movielens-1m --input {data}/ml-1m --min-item-events 5",
    "beauty": "--preset amazon-beauty --input {data}/amazon-beauty",
    "retailrocket": "--preset retailrocket --input {data}/retailrocket",
    # Ratings of 4 and more are liked; the newest fifth of the events is for validation and test.
    "ml-100k-labels": "--preset movielens-100k --input {data}/ml-100k --label-column 2 --label-threshold 4 "
    "--split time --valid-from 889237269 --test-from 891382267",
    # A tenth of the items are test targets alone, as items that came after training.
    **{
        f"{name}-cold": f"--preset {preset} --input {{data}}/{name} --min-item-events 5 --hold-out-items 0.1"
        for name, preset in (("ml-100k", "movielens-100k"), ("ml-1m", "movielens-1m"))
    },
    # All events but the test targets are for training, with no validation to choose an epoch by.
    "beauty-all": "--preset amazon-beauty --input {data}/amazon-beauty --valid-share 0",
    "ordered": "--input {work}/ordered.csv --label-column label --split time --valid-from 1700000045 "
    "--test-from 1700000050",
}

# What to embed of a dataset; needs the extra `text`.
EMBED = dict.fromkeys(
    ("ml-100k-cold", "ml-1m-cold"), "--text-encoder {models}/minilm-text-encoder --text-feature title"
)

_TOP10 = {"ndcg@10": None, "hr@10": None}
_BOTH = {"full": _TOP10, "uniform_100": _TOP10}
_SESSIONS = {"full": {"hr@20": None, "mrr@20": None}, "uniform_100": _TOP10}
_COLD = {"full": {**_TOP10, "cold hr@10": None}}
_TITLES = """'model.item_features=["*"]' model.score_with_features=true"""
_FUSIONS = ("sum", "concat", "gating")
_NO_USERS = "model.max_len=50 data.exclude_history=false"
_SAMPLED = "model.loss=sampled-softmax model.negatives=popular model.share_negatives=true model.num_negatives=2048"
_SHARED = "model.loss=sampled-softmax model.share_negatives=true model.num_negatives=3000"
_LABELS = {"labels": {"auc": None, "gauc": None, "logloss": None, "calibration": None}}
_ORDERED = "model.hidden_dims=[64,32] data.batch_size=16 train.epochs=6 train.learning_rate=0.001"
_NEGATIVES = "model.num_negatives=4 model.max_targets=20 data.batch_size=64 train.learning_rate=0.003"

ROWS = {
    "ml1m-sasrec": _row(
        "ml-1m",
        "sasrec_ml1m",
        uniform_100={"hr@10": (0.8245, "SASRec paper"), "ndcg@10": (0.5905, "SASRec paper")},
        full=_TOP10,
    ),
    "ml1m-sasrec-softmax": _row(
        "ml-1m",
        "sasrec_softmax_ml1m",
        full={"ndcg@10": (0.1772, "eSASRec; gSASRec 0.1726"), "hr@10": (0.3133, "eSASRec; gSASRec 0.3003")},
        uniform_100=_TOP10,
    ),
    "ml1m-bert4rec": _row(
        "ml-1m",
        "bert4rec_ml1m",
        popular_100={"hr@10": (0.6970, "BERT4Rec paper"), "ndcg@10": (0.4818, "BERT4Rec paper")},
        **_BOTH,
    ),
    "ml1m-nova": _row("ml-1m", "nova_ml1m", **_BOTH),
    "ml1m-gru4rec": _row("ml-1m", "gru4rec_ml1m", **_BOTH),
    **{
        f"ml1m-{name}": _row("ml-1m", name, **_BOTH)
        for name in ("caser", "fpmc", "fmc", "transrec", "neumf", "bprmf", "poprec")
    },
    "ml1m-itemknn": _row("ml-1m", "itemknn", "model.num_neighbors=1000", **_BOTH),
    **{
        f"ml1m-{name}": _row("ml-1m", name, f"{_NEGATIVES} train.epochs={epochs}", uniform_100=_TOP10)
        for name, epochs in (("bst", 10), ("din", 25), ("wide_deep", 25))  # an epoch of BST is seven of DIN
    },
    # Titles and genres, on one encoder; of long histories, windows, which spares four fifths of the time. beta_2 is
    # that of the SASRec authors' code.
    **{
        f"{name}-cold-{row}": _row(
            f"{name.replace('ml1', 'ml-1')}-cold", config, f"train.beta_2=0.98 {windows} {settings}", **_COLD
        )
        for name, windows in (("ml100k", ""), ("ml1m", "model.max_len=50 data.window=random train.epochs=25"))
        for row, config, settings in (
            ("sasrec", "sasrec_sides", "model.item_features=[]"),
            ("sasrec-sides", "sasrec_sides", _TITLES),
            ("sasrec-sides-dropout", "sasrec_sides", f"{_TITLES} model.item_id_dropout_rate=0.2"),
            *((f"nova-{fusion}", "nova_ml1m", f"{_TITLES} model.fusion={fusion}") for fusion in _FUSIONS),
        )
    },
    "beauty-sasrec-softmax": _row(
        "beauty",
        "sasrec_softmax_beauty",
        full={"hr@10": (0.0595, "SASRec with CE"), "ndcg@10": (0.0359, "SASRec with CE")},
        popular_100={"hr@10": (0.3062, "SASRec with CE"), "ndcg@10": (0.2012, "SASRec with CE")},
    ),
    "rr-gru4rec": _row(
        "retailrocket",
        "gru4rec_retailrocket",
        full={"hr@20": (0.603, "authors' TensorFlow code"), "mrr@20": (0.299, "authors' TensorFlow code")},
        uniform_100=_TOP10,
    ),
    "rr-sasrec": _row(
        "retailrocket",
        "sasrec_softmax_beauty",
        f"{_NO_USERS} {_SAMPLED} model.dropout_rate=0.2 train.epochs=15",
        **_SESSIONS,
    ),
    "rr-bert4rec": _row(
        "retailrocket",
        "bert4rec_ml1m",
        f"{_NO_USERS} {_SAMPLED} model.mask_rate=0.4 train.epochs=40",
        **_SESSIONS,
    ),
    "rr-caser": _row(
        "retailrocket",
        "caser",
        f"{_NO_USERS} {_SAMPLED} model.use_users=false model.dropout_rate=0.2 train.epochs=15",
        **_SESSIONS,
    ),
    "rr-fmc": _row("retailrocket", "fmc", f"{_NO_USERS} train.epochs=20", **_SESSIONS),
    "rr-itemknn": _row("retailrocket", "itemknn", "data.exclude_history=false", **_SESSIONS),
    "rr-spop": _row("retailrocket", "spop", **_SESSIONS),
    "rr-poprec": _row("retailrocket", "poprec", "data.exclude_history=false", **_SESSIONS),
    **{f"ml100k-{name}": _row("ml-100k-labels", name, **_LABELS) for name in ("bst", "din", "wide_deep")},
    **{f"ordered-{name}": _row("ordered", name, _ORDERED, **_LABELS) for name in ("bst", "din")},
    "ordered-wide_deep": _row("ordered", "wide_deep", f"{_ORDERED} model.use_history=true", **_LABELS),
}
ROWS["beauty-sasrec-sampled"] = dataclasses.replace(ROWS["beauty-sasrec-softmax"], settings=_SHARED)
for _name in ("beauty-sasrec-softmax", "beauty-sasrec-sampled"):
    ROWS[f"{_name}-all"] = dataclasses.replace(ROWS[_name], dataset="beauty-all")


def main() -> None:
    """Run the rows asked for, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all where none is given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("bench"))
    args = parser.parse_args()
    unknown = set(args.rows) - ROWS.keys()
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    lines = []
    for name in args.rows or ROWS:
        for seed in args.seeds:
            lines += measure(name, ROWS[name], seed, args.work)
    print(f"\n{'row':<22}{'seed':>5}{'parameters':>12}{'epochs':>8}{'minutes':>9}{'users/s':>9}", end="")
    print(f"  {'protocol':<13}{'metric':<9}{'measured':>18}  published")
    print("\n".join(lines))


def measure(name: str, row: Row, seed: int, work: pathlib.Path) -> list[str]:
    """Prepare, train and evaluate one row; its lines of the table."""
    quiet.import_tensorflow()
    from seqrec_tf import models
    from seqrec_tf.config import resolve
    from seqrec_tf.run_folder import read_config

    dataset, run = work / row.dataset, work / "runs" / f"{name}-{seed}"
    figures_file = work / "runs" / f"{name}-{seed}.json"
    if not (dataset / "COMPLETED").exists():
        work.mkdir(parents=True, exist_ok=True)
        if row.dataset == "ordered":
            write_ordered(work / "ordered.csv")
        seqrec(f"prepare {DATASETS[row.dataset].format(data=DATA, work=work)} --output {dataset}")
    if row.dataset in EMBED and not (dataset / "vectors" / "title" / "encoder.json").exists():
        seqrec(f"embed --dataset {dataset} {EMBED[row.dataset].format(models=MODELS)}")
    config, settings = ROOT / "configs" / f"{row.config}.toml", f"{row.settings} train.seed={seed}"
    if not (run / "COMPLETED").exists():
        seqrec(f"train --dataset {dataset} --model {row.model} --config {config} --set {settings} --output {run}")
    model_config = models.find(row.model).config_class
    if read_config(run) != resolve(row.model, model_config, toml=config.read_text(), settings=shlex.split(settings)):
        sys.exit(f"{run} was trained with other settings than {name} has now. Remove it, or choose another --work.")
    if not figures_file.exists():
        seqrec(f"evaluate --run {run} --protocol {' '.join(row.published)} --seed {seed} --json {figures_file}")
    figures = json.loads(figures_file.read_text())["protocols"]
    training = json.loads((run / "metrics.json").read_text())
    users = json.loads((dataset / "stats.json").read_text())["splits"]["train"]["sequences"]
    seconds = training.get("training_seconds")  # 0 where all is counted, None in a run of an earlier version
    rate = f"{users * training['epochs'] / seconds:,.0f}" if seconds else ""
    cost = f"{training['parameters']:>12,}{training['epochs']:>8}{training['seconds'] / 60:>9.1f}{rate:>9}"
    lines = []
    for protocol, metrics in row.published.items():
        for metric, figure in metrics.items():
            measured = figures[protocol][row.model]["metrics"][metric]
            half = (measured["high"] - measured["low"]) / 2
            lines.append(
                f"{name:<22}{seed:>5}{cost}  {protocol:<13}{metric:<9}{measured['value']:>9.4f} ± {half:.4f}  "
                + (f"{figure[0]:.4f} ({figure[1]})" if figure else "")
            )
    return lines


def write_ordered(path: pathlib.Path) -> None:
    """Events whose label depends on the order of those before, which what sees a mere set of events cannot tell.

    The 40 items are of 4 kinds, and a user is shown one at a time. They like what is of the kind that follows, in a
    circle, the kind of the item that they liked last, and tell the opposite one time in ten. Who knows the rule has an
    AUC of 0.857.
    """
    rng = random.Random(0)
    with path.open("w") as stream:
        stream.write("user_id,item_id,timestamp,label\n")
        for user in range(3000):
            kind = rng.randrange(4)
            for second in range(60):
                item = rng.randrange(40)
                is_liked = (item % 4 == (kind + 1) % 4) == (rng.random() < 0.9)
                stream.write(f"u{user},i{item},{1_700_000_000 + second},{int(is_liked)}\n")
                kind = item % 4 if is_liked else kind


def seqrec(command: str) -> None:
    """Run a command of the project, shown as it would be typed."""
    print(f"$ seqrec {command}", flush=True)
    subprocess.run([sys.executable, "-m", "seqrec_tf.cli", *shlex.split(command)], check=True)


if __name__ == "__main__":
    main()
