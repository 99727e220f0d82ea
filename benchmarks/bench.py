"""Speed and memory in one table, beside what others take on the same machine in the same run; what is wanted beside it.

    make bench

Each line is what one of the other scripts measures, whose help says how; about 30 minutes on 2 cores.
"""

import argparse
import pathlib
import shutil
import tempfile

import latency
import prepare_speed
import scale
import session_speed
import train_speed


def main() -> None:
    """Measure line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("bench"), help="folder of the datasets")
    parser.add_argument("--peer-python", help="interpreter of an environment with rectools[torch], for lines beside it")
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"of {', '.join(LINES)}; all where none is given")
    args = parser.parse_args()
    unknown = set(args.lines) - LINES.keys()
    if unknown:
        parser.error(f"no line {', '.join(sorted(unknown))}; there are {', '.join(LINES)}")
    if not args.peer_python and (beside := [name for name in args.lines or LINES if name in BESIDE_RECTOOLS]):
        parser.error(f"--peer-python is missing, for {', '.join(beside)}")
    print(f"{'what':<44}{'measured':>34}{'peer':>22}{'ratio':>8}  wanted")
    for name in args.lines or LINES:
        for what, measured, peer, ratio, wanted in LINES[name](args):
            print(f"{what:<44}{measured:>34}{peer:>22}{ratio:>8}  {wanted}", flush=True)


def against_rectools(what, wanted, dataset, *, memory_wanted="", **options):
    """A line of `train_speed.compare`, and one of memory where something is wanted of it."""

    def line(args):
        timings = train_speed.compare(args.work / dataset, args.peer_python, **options)
        ours, theirs = timings["seqrec_tf"], timings["rectools"]
        floor = "" if ours.floor is None else f", {ours.floor:.0%} of floor"
        yield (
            what,
            f"{ours.rate:,.0f} users/s{floor}",
            f"{theirs.rate:,.0f} users/s",
            f"{ours.rate / theirs.rate:.2f}",
            wanted,
        )
        if memory_wanted:
            yield (
                "  its peak memory",
                f"{ours.peak_gb:.2f} GB",
                f"{theirs.peak_gb:.2f} GB",
                f"{ours.peak_gb / theirs.peak_gb:.2f}",
                memory_wanted,
            )

    return line


def steps_of_catalogues(args):
    """A step with a sampled loss, 10,000 to 10,000,000 items."""
    first = None
    for line, (seconds, peak, _) in scale.fastest(scale.CURVES["items"], 2):
        first = first or seconds
        wanted = {"1,000,000": "at most 1.3", "10,000,000": "runs on 24 GiB"}.get(line.label, "")
        measured = f"{1000 * seconds:.1f} ms, {peak:.2f} GB"
        yield f"step, one negative, {line.label} items", measured, "", f"{seconds / first:.2f}", wanted


def softmax_memory(args):
    """The loss over a million items."""
    _, peak, before = scale.measure(scale.CURVES["softmax"][-1])
    measured = f"{peak - before:.2f} GB more than the table"
    yield "softmax, 6,400 targets x 1,000,000 items", measured, "", "", "at most 2 GB with gradients"


def side_features(args):
    """A step with vectors of 4,096 floats."""
    first = None
    for line, (seconds, _, _) in scale.fastest(scale.CURVES["features"], 3):
        first = first or seconds
        rate = f"{line.batch / seconds:,.0f} users/s"
        yield f"L=200, vectors of items: {line.label}", rate, "", f"{first / seconds:.2f}", "at least 0.75"


def sessions(args):
    """GRU4Rec."""
    events, plain = session_speed.session_events(args.work / "retailrocket", 2), session_speed.plain_step()
    theirs = session_speed.AUTHORS * session_speed.PLAIN_MS / plain
    measured = f"{events:,.0f} events/s (plain step {plain:.0f} ms)"
    yield "GRU4Rec, RetailRocket", measured, f"{theirs:,.0f} events/s", f"{events / theirs:.2f}", "at least 4"


def exported(args):
    """The exported model."""
    p50, p99, _ = latency.measure("exported", 100_000, 1, 1)
    yield "exported, 100,000 items, batch 1, one core", f"p50 {p50:.2f}, p99 {p99:.2f} ms", "", "", "3 and 10 ms"


def preparation(args):
    """Beam."""
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        source, output = pathlib.Path(folder) / "events.csv", pathlib.Path(folder) / "dataset"
        for events in (1_000_000, 10_000_000):
            prepare_speed.write_events(source, prepare_speed.Case(events))
            measured = prepare_speed.prepare(source, output, 1, pathlib.Path.cwd())
            shown = f"{events / measured.seconds:,.0f} events/s, {measured.main_gb:.2f} GB"
            yield f"prepare, {events:,} events", shown, "", "", "linear growth, flat memory"
            shutil.rmtree(output)


BESIDE_RECTOOLS = {
    "beauty": against_rectools("SASRec, Beauty, L=50, d=50, BCE", "at least 8", "beauty", max_len=50),
    "ml-1m": against_rectools("SASRec, MovieLens 1M, L=200, d=50, BCE", "at least 4, 35 % of floor", "ml-1m"),
    "softmax": against_rectools(
        "SASRec, Beauty, L=50, d=64, softmax",
        "at least 12",
        "beauty",
        memory_wanted="at most 0.125",
        max_len=50,
        dim=64,
        loss="softmax",
        steps=30,
        epochs=1,
        rounds=1,
    ),
    "ranking": against_rectools(
        "ranking all of Beauty",
        "at least 5",
        "beauty",
        memory_wanted="under 2 GB",
        max_len=50,
        recommend=True,
        rounds=1,
    ),
}
LINES = {
    **BESIDE_RECTOOLS,
    "items": steps_of_catalogues,
    "memory": softmax_memory,
    "features": side_features,
    "sessions": sessions,
    "latency": exported,
    "prepare": preparation,
}

if __name__ == "__main__":
    main()
