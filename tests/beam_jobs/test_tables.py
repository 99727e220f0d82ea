import dataclasses
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.counting import SumItems, Tally
from beam_jobs.store import Store
from beam_jobs.tables import Coded, EventRows, ItemCounts, Sequences


def some_table() -> Sequences:
    return Sequences(
        roles=np.zeros(3, np.uint8),
        users=pa.array(["unused", "u", "", "é" * 99, "unused"]).slice(1, 3),
        sessions=None,
        offsets=np.array([0, 2, 3, 5]),
        items=np.array([0, 1, 0, 0, 1], np.int32),
        names=pa.array(["a", "b"]),
        columns={
            "time": np.array([-(2**62), 2**62, 5, 6, 7]),
            "position": np.arange(5) + (3 << 44),
            "fraction": np.zeros(5),
            "other": np.array([0.5, np.nan, 1, 2, 3]),
        },
        starts=np.ones((3, 3), np.int64),
        ends=np.arange(9).reshape(3, 3),
    )


def plain(value):
    if isinstance(value, np.ndarray):
        return [str(value.dtype), *(repr(one) for one in value.ravel().tolist())]
    if isinstance(value, pa.Array):
        return value.to_pylist()
    return {name: plain(one) for name, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("in_files", [True, False])
def test_a_table_is_picked_up_as_it_was_laid_down_and_once(tmp_path, in_files):
    store, table = Store(str(tmp_path) if in_files else None), some_table()
    stored = store.put(table)
    assert len(list(tmp_path.iterdir())) == in_files
    found = store.take(stored)
    for field in dataclasses.fields(table):
        assert plain(getattr(found, field.name)) == plain(getattr(table, field.name)), field.name
    assert list(tmp_path.iterdir()) == []
    assert store.take(table) is table  # what was not laid down


def test_a_part_of_a_table_takes_no_more_room_than_it_needs(tmp_path):
    store = Store(str(tmp_path))
    names = pa.array([f"item-{k:09d}" for k in range(100_000)])
    coded = Coded(np.zeros(10, np.int32), names.slice(0, 1))
    store.put(EventRows("", coded, None, names.slice(50_000, 10), {"time": np.arange(10) + 1_600_000_000}))
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 1_500


def test_a_full_disk_is_one_sentence(tmp_path):
    code = (
        "import resource, numpy as np\n"
        "from beam_jobs.store import Store\n"
        f"store = Store({str(tmp_path)!r})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store.put(np.random.default_rng(0).random(1000))\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"RuntimeError: Tables between two steps are kept in {tmp_path}, and that cannot be written: File too large."
    )


def test_counts_of_items_add_up_in_any_grouping():
    parts = [ItemCounts(pa.array(items), np.array(counts)) for items, counts in (
        (["a", "b"], [1, 2]), (["b", "c"], [3, 0]), (["a"], [5]), ([], np.zeros(0, np.int64)),
    ) if items] + [ItemCounts(pa.array([], pa.string()), np.zeros(0, np.int64))]  # fmt: skip
    combine = SumItems()
    accumulators = [combine.compact(combine.add_input(combine.create_accumulator(), part)) for part in parts]
    total = combine.extract_output(combine.merge_accumulators(accumulators))
    assert dict(zip(total.items.to_pylist(), total.counts.tolist(), strict=True)) == {"a": 6, "b": 5}
    assert (total.num_items, total.num_events) == (2, 11)
    assert combine.extract_output(combine.create_accumulator()).num_items == 0


def test_tallies_add_up_and_know_no_other_numbers():
    first, second = Tally(events=2), Tally(events=3)
    first.sequences["parsed"] += 1
    second.sequences["parsed"] += 4
    second.lengths["train", 7] += 1
    total = Tally.sum([first, second])
    assert (total.events, total.sequences["parsed"], total.lengths["train", 7]) == (5, 5, 1)
    with pytest.raises(AttributeError):
        total.evnts += 1
