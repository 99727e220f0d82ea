"""Ranking quality on public data, beside the figures that others published.

    python benchmarks/quality.py ml1m-sasrec --seeds 0 1

A row is prepared, trained and evaluated by the commands a user would give, which are shown; what is finished is not
done again. Data is read from SEQREC_DATA_DIR (default ../shared/data); everything made goes to --work.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = pathlib.Path(os.environ.get("SEQREC_DATA_DIR", ROOT.parent / "shared" / "data"))


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        dataset: Name of the dataset folder that it shares with other rows.
        prepare: Options of `seqrec prepare`; {data} is the folder of the data sets.
        model: Of `seqrec train`.
        config: File in `configs/`.
        published: Figures to compare with: protocol to metric to (value, whose it is),
            or None where there is none.
    """

    dataset: str
    prepare: str
    model: str
    config: str
    published: dict[str, dict[str, tuple[float, str] | None]]


_ML1M = "--preset movielens-1m --input {data}/ml-1m/events.tsv.gz --min-item-events 5"

ROWS = {
    "ml1m-sasrec": Row(
        dataset="ml-1m",
        prepare=_ML1M,
        model="sasrec",
        config="sasrec_ml1m.toml",
        published={
            "uniform-100": {"hr@10": (0.8245, "SASRec paper"), "ndcg@10": (0.5905, "SASRec paper")},
            "full": {"hr@10": None, "ndcg@10": None},
        },
    ),
}


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
    print(f"\n{'row':<16}{'seed':>5}{'epochs':>8}{'minutes':>9}  {'protocol':<13}{'metric':<9}{'measured':>18}", end="")
    print("  published")
    print("\n".join(lines))


def measure(name: str, row: Row, seed: int, work: pathlib.Path) -> list[str]:
    """Prepare, train and evaluate one row; its lines of the table."""
    dataset, run = work / row.dataset, work / "runs" / f"{name}-{seed}"
    figures_file = work / "runs" / f"{name}-{seed}.json"
    if not (dataset / "COMPLETED").exists():
        seqrec(f"prepare {row.prepare.format(data=DATA)} --output {dataset}")
    if not (run / "COMPLETED").exists():
        config = ROOT / "configs" / row.config
        settings = f"--config {config} --set train.seed={seed}"
        seqrec(f"train --dataset {dataset} --model {row.model} {settings} --output {run}")
    if not figures_file.exists():
        seqrec(f"evaluate --run {run} --protocol {' '.join(row.published)} --seed {seed} --json {figures_file}")
    figures = json.loads(figures_file.read_text())["protocols"]
    training = json.loads((run / "metrics.json").read_text())
    lines = []
    for protocol, metrics in row.published.items():
        for metric, figure in metrics.items():
            measured = figures[protocol][row.model]["metrics"][metric]
            half = (measured["high"] - measured["low"]) / 2
            lines.append(
                f"{name:<16}{seed:>5}{training['epochs']:>8}{training['seconds'] / 60:>9.1f}  {protocol:<13}{metric:<9}"
                f"{measured['value']:>9.4f} ± {half:.4f}  " + (f"{figure[0]:.4f} ({figure[1]})" if figure else "")
            )
    return lines


def seqrec(command: str) -> None:
    """Run a command of the project, shown as it would be typed."""
    print(f"$ seqrec {command}", flush=True)
    subprocess.run([sys.executable, "-m", "seqrec_tf.cli", *shlex.split(command)], check=True)


if __name__ == "__main__":
    main()
