"""Latency of an exported model, loaded as TF Serving loads it, and of other ways to find the best items.

    python benchmarks/latency.py
    python benchmarks/latency.py --requests --items 100000
    pip install scann && python benchmarks/latency.py --indexes

SASRec with d = 64, L = 50 and random weights answers `serving_default` (ids in, 20 ids and scores out, as strings) for
histories of 50 events, through a session on the saved model. With --requests: `recommend`, by what requests hold beside
the history (50 excluded items, 50 allowed ones), and its time over that of `serving_default`, both asked in turn in one
process. With --indexes: only the search, from a query vector to its best 20 items, by the exported model's own
operations and by TFRS' indexes, and the share of the exact items that each finds. Each line is a process of its own.
"""

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TFRS needs it; `import keras` is Keras 3 all the same

DIM, LENGTH, K = 64, 50, 20
EXPORTED = "exported"
# Of `recommend`: how many items a row excludes, in which share of the rows 50 are allowed, how many are wanted.
REQUESTS = {
    "nothing else": (0, 0.0, 0),
    "exclude, k": (50, 0.0, 10),
    "exclude, k, allow in half": (50, 0.5, 10),
    "exclude, k, allow in all": (50, 1.0, 10),
}


def main() -> None:
    """Measure each case, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--requests", action="store_true")
    parser.add_argument("--indexes", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # the measured process: what, items, batch, threads
    args = parser.parse_args()
    if args.one:
        what, *numbers = args.one
        items, batch, threads = map(int, numbers)
        if what == EXPORTED:
            print(*served(items, batch, threads, args.seconds))
        elif what == "requests":
            for line in requested(items, batch, threads, args.seconds):
                print(line, flush=True)
        else:
            print(*searched(what, items, batch, threads, args.seconds))
        return
    if args.requests:
        head = f"{'recommend with':<28}{'items':>10}{'batch':>7}{'threads':>9}{'p50 ms':>9}"
        print(f"{head}{'serving_default':>17}{'ratio':>8}", flush=True)
        for case in itertools.product(args.items, args.batch_sizes, args.threads):
            command = [sys.executable, __file__, "--seconds", str(args.seconds), "--one", "requests", *map(str, case)]
            subprocess.run(command, check=True)
        return
    whats = ("in-graph", "tfrs-brute-force", "tfrs-streaming", "tfrs-scann") if args.indexes else (EXPORTED,)
    print(f"{'what':<18}{'items':>10}{'batch':>7}{'threads':>9}{'p50 ms':>9}{'p99 ms':>9}{'a second':>10}{'recall':>8}")
    for items in args.items:
        for batch in args.batch_sizes:
            for threads in args.threads:
                for what in whats:
                    head = f"{what:<18}{items:>10,}{batch:>7}{threads:>9}"
                    try:
                        p50, p99, recall = measure(what, items, batch, threads, args.seconds)
                    except subprocess.CalledProcessError as error:
                        print(f"{head}  {error.stderr.strip().splitlines()[-1]}", flush=True)
                        continue
                    print(f"{head}{p50:>9.2f}{p99:>9.2f}{1000 * batch / p50:>10,.0f}{recall:>8.3f}", flush=True)


def measure(what: str, items: int, batch: int, threads: int, seconds: float = 5.0) -> tuple[float, float, float]:
    """Median and 99th percentile, milliseconds, and the share of the exact items; in a process of its own."""
    command = [sys.executable, __file__, "--seconds", str(seconds)]
    command += ["--one", what, str(items), str(batch), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    p50, p99, recall = map(float, done.stdout.split()[-3:])
    return p50, p99, recall


def percentiles(ask, seconds: float) -> tuple[float, float]:
    """Milliseconds of the median call, and of one in a hundred."""
    import numpy as np

    for _ in range(20):
        ask()
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        ask()
        times.append(time.perf_counter() - started)
    return tuple(1000 * np.percentile(times, [50, 99]))


def write_model(path: str, num_items: int) -> None:
    """Write the model as `seqrec export` does, to a version folder."""
    import tensorflow as tf

    from seqrec_tf.exporting.serving_module import Answers, Recommender, Trained
    from seqrec_tf.models import SASRec
    from seqrec_tf.schema import EXTRA_FOLDER, SCHEMA_FILE, Schema

    schema = Schema(num_items=num_items)
    model = SASRec(SASRec.config_class(max_len=LENGTH, dim=DIM), schema)
    dataset = types.SimpleNamespace(item_counts=range(num_items, 0, -1), learned_of_users={}, schema=schema)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = os.path.join(folder, "item_id.txt")
        with open(vocabulary, "w") as stream:
            stream.writelines(f"item-{number}\n" for number in range(1, num_items + 1))
        module = Recommender([Trained(model, dataset)], vocabulary, Answers(K))
        tf.saved_model.save(module, path, signatures=module.concrete_functions())
    os.makedirs(f"{path}/{EXTRA_FOLDER}")
    with open(f"{path}/{EXTRA_FOLDER}/{SCHEMA_FILE}", "w") as stream:
        stream.write(schema.to_json())


@contextlib.contextmanager
def exported(num_items: int, threads: int):
    """A saved SASRec in a session: a function from a signature's name to one of feeds, which asks it."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        write_model(f"{folder}/1", num_items)
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
        with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], f"{folder}/1")

            def asker(name, feeds):
                signature = loaded.signature_def[name]
                outputs = [info.name for info in signature.outputs.values()]
                ask = session.make_callable(outputs, [signature.inputs[key].name for key in feeds])
                return lambda: ask(*feeds.values())

            yield asker


def strings(ids):
    """The item ids of an array of numbers."""
    import numpy as np

    return np.char.add("item-", ids.astype(str)).astype(object)


def served(num_items: int, batch: int, threads: int, seconds: float) -> tuple[float, ...]:
    """The whole signature, which looks at every item: the share found is 1."""
    import numpy as np

    from seqrec_tf.schema import HISTORY, RECOMMEND

    ids = np.random.default_rng(0).integers(1, num_items, size=[batch, LENGTH])
    with exported(num_items, threads) as asker:
        return *percentiles(asker(RECOMMEND.name, {HISTORY: strings(ids)}), seconds), 1.0


def requested(num_items: int, batch: int, threads: int, seconds: float):
    """A line for each of `REQUESTS`."""
    import numpy as np

    from seqrec_tf.schema import ALLOW, EXCLUDE, HISTORY, RECOMMEND, RECOMMEND_AMONG
    from seqrec_tf.schema import K as WANTED

    rng = np.random.default_rng(0)
    history = strings(rng.integers(1, num_items, size=[batch, LENGTH]))
    with exported(num_items, threads) as asker:
        plain = asker(RECOMMEND.name, {HISTORY: history})
        for name, (excluded, share, wanted) in REQUESTS.items():
            allow = strings(rng.integers(1, num_items, size=[batch, 50 if share else 1]))
            allow[round(share * batch) :] = ""
            feeds = {HISTORY: history, EXCLUDE: strings(rng.integers(1, num_items, size=[batch, excluded]))}
            feeds |= {ALLOW: allow, WANTED: np.full([batch], wanted)}
            if share == 0.5 and batch == 1:
                continue
            ours, theirs = in_turn(asker(RECOMMEND_AMONG.name, feeds), plain, seconds)
            head = f"{name:<28}{num_items:>10,}{batch:>7}{threads:>9}"
            yield f"{head}{ours:>9.2f}{theirs:>17.2f}{ours / theirs:>8.2f}"


def in_turn(first, second, seconds: float) -> tuple[float, float]:
    """Medians of two calls, milliseconds, each made after the other, so that what else the machine does hits both."""
    import numpy as np

    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(20):
        first(), second()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for ask, of_ask in zip((first, second), times, strict=True):
            started = time.perf_counter()
            ask()
            of_ask.append(time.perf_counter() - started)
    return tuple(1000 * float(np.median(of_ask)) for of_ask in times)


def searched(what: str, num_items: int, batch: int, threads: int, seconds: float) -> tuple[float, ...]:
    """The search alone."""
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    from seqrec_tf.learning.ranking import recommend
    from seqrec_tf.models import SASRec
    from seqrec_tf.schema import Schema

    model = SASRec(SASRec.config_class(max_len=2, dim=DIM), Schema(num_items=num_items))
    # Clustered, as item vectors are, and not a ball in which all are equally far.
    rng = np.random.default_rng(0)
    centres = rng.normal(size=[max(num_items // 1000, 1), DIM])
    table = centres[rng.integers(len(centres), size=num_items + 1)] + 0.5 * rng.normal(size=[num_items + 1, DIM])
    model.items.embeddings.assign(table.astype(np.float32))
    query = tf.constant(table[rng.integers(1, num_items, size=batch)] + 0.1, tf.float32)

    @tf.function
    def in_graph(query):
        return recommend(model, query, tf.zeros([batch, 0], tf.int32), k=K)[0]

    exact = in_graph(query).numpy()
    find = in_graph
    if what != "in-graph":
        import tensorflow_recommenders as tfrs

        indexes = tfrs.layers.factorized_top_k
        identifiers, candidates = tf.range(1, num_items + 1), tf.constant(table[1:], tf.float32)
        if what == "tfrs-streaming":
            index = indexes.Streaming(k=K)
            both = tf.data.Dataset.from_tensor_slices((identifiers, candidates)).batch(16_384)
            index.index_from_dataset(both)
        elif what == "tfrs-scann":
            index = indexes.ScaNN(k=K, num_leaves=int(num_items**0.5), num_leaves_to_search=int(num_items**0.5) // 10)
            index.index(candidates, identifiers)
        else:
            index = indexes.BruteForce(k=K)
            index.index(candidates, identifiers)
        find = tf.function(lambda query: index(query)[1])
    found = find(query).numpy()
    return *percentiles(lambda: find(query), seconds), share_found(found, exact)


def share_found(found, exact) -> float:
    """Share of the exact answers' items that another search finds."""
    return sum(len(set(ours) & set(theirs)) for ours, theirs in zip(found, exact, strict=True)) / exact.size


if __name__ == "__main__":
    main()
