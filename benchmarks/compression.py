"""What packing the records of a dataset gives and costs: size, writing, and reading as training reads.

    python benchmarks/compression.py --dataset shop

One file of the training split is unpacked, packed in each way, and read by TensorFlow. MB are of unpacked records.
"""

import argparse
import gzip
import pathlib
import tempfile
import time
import zlib

from isal import igzip


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=pathlib.Path, required=True, help="folder made by `seqrec prepare`")
    args = parser.parse_args()
    import tensorflow as tf

    data = gzip.decompress(sorted((args.dataset / "train").iterdir())[0].read_bytes())
    print(f"{'packed by':<16}{'size':>8}{'written MB/s':>14}{'read MB/s':>11}")
    for name, pack in (
        ("nothing", None),
        ("zlib, level 1", lambda: zlib_gzip(data, 1)),
        ("zlib, level 6", lambda: zlib_gzip(data, 6)),
        ("ISA-L, level 1", lambda: igzip.compress(data, 1)),
        ("ISA-L, level 2", lambda: igzip.compress(data, 2)),
    ):
        started = time.perf_counter()
        packed = pack() if pack else data
        seconds = time.perf_counter() - started
        written = f"{len(data) / seconds / 1e6:,.0f}" if pack else ""
        with tempfile.NamedTemporaryFile() as file:
            pathlib.Path(file.name).write_bytes(packed)
            records = tf.data.TFRecordDataset(file.name, "GZIP" if pack else "", buffer_size=1 << 20).batch(1_000)
            started = time.perf_counter()
            sum(len(batch) for batch in records)
            read = len(data) / (time.perf_counter() - started) / 1e6
        print(f"{name:<16}{len(packed) / len(data):>8.2f}{written:>14}{read:>11,.0f}", flush=True)


def zlib_gzip(data: bytes, level: int) -> bytes:
    """Packed by zlib in the container of gzip."""
    packer = zlib.compressobj(level, wbits=31)
    return packer.compress(data) + packer.flush()


if __name__ == "__main__":
    main()
