"""Seconds from a wrong argument to its error, and to the help, of each command; the median of some processes.

    python benchmarks/argument_seconds.py [--times 5]

An argument is wrong in one way of each command: an option that there is not, a folder that is not there, a value that
the model refuses. No dataset is needed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

from seqrec_tf import cli

WRONG = {
    "demo": ["demo", "--customers", "3"],
    "prepare": ["prepare", "--input", "nowhere.csv", "--output", "out"],
    "embed": ["embed", "--dataset", "nowhere", "--text-encoder", "nowhere"],
    "analyze": ["analyze", "--dataset", "nowhere"],
    "train": ["train", "--dataset", "nowhere", "--model", "sasrec", "--output", "out", "--set", "model.dmi=8"],
    "evaluate": ["evaluate", "--run", "nowhere"],
    "report": ["report", "--run", "nowhere"],
    "tune": ["tune", "--dataset", "nowhere", "--model", "sasrec", "--space", "nowhere.toml", "--output", "out"],
    "runs": ["runs", "nowhere"],
    "compare": ["compare", "nowhere", "nowhere"],
    "export": ["export", "--run", "nowhere", "--output", "out"],
    "serve": ["serve", "--models", "nowhere"],
    "recommend": ["recommend", "--model", "shop"],
}


def main() -> None:
    """Measure every command and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="processes of each (default 5)")
    times = parser.parse_args().times
    sys.stdout.write(f"{'command':<12}{'wrong argument, s':>20}{'unknown option, s':>20}{'--help, s':>12}\n")
    for name in cli.COMMANDS:
        words = WRONG.get(name, [name, "--no-such-option"])
        figures = [
            median_seconds(words, times, status=2),
            median_seconds([name, "--no-such-option"], times, status=2),
            median_seconds([name, "--help"], times, status=0),
        ]
        sys.stdout.write(f"{name:<12}{figures[0]:>20.2f}{figures[1]:>20.2f}{figures[2]:>12.2f}\n")
        sys.stdout.flush()


def median_seconds(words: list[str], times: int, *, status: int) -> float:
    """The median of the seconds that a process of the command takes, which must end with a status."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(times):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "seqrec_tf", *words], capture_output=True, text=True, cwd=folder, check=False
            )
            seconds.append(time.perf_counter() - start)
            if done.returncode != status:
                raise RuntimeError(
                    f"seqrec {' '.join(words)} ended with {done.returncode}, not {status}: {done.stderr}"
                )
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
