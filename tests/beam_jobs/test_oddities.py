"""What `seqrec prepare` warns of, and what it leaves alone."""

import shlex

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import oddities
from beam_jobs.counting import Tally
from beam_jobs.options import Options
from beam_jobs.tables import ItemCounts, group
from beam_jobs.where import Condition


def warnings(users, items=None, times=None, time_format="s", **options):
    """Of events by user, item and time, one of each for every event."""
    from beam_jobs.tables import POSITION, TIME, Coded, EventRows

    number = len(users)
    items = items or [f"i{k % 50}" for k in range(number)]
    times = list(times or range(10**9, 10**9 + number))
    columns = {TIME: np.array(times, np.int64), POSITION: np.arange(number)}
    parts = [EventRows("", Coded.of(pa.array(users)), None, pa.array(items), columns)]
    tally = Tally(events=number)
    oddities.note_ids(tally, group(parts), 10_000)
    oddities.note_times(tally, group(parts))
    counts = ItemCounts(*(f(np.unique(items, return_counts=True)) for f in (lambda c: pa.array(c[0]), lambda c: c[1])))
    return oddities.warnings(tally, oddities.odd_items(counts), number, Options().recorded() | options, time_format)


def people(number=200, events=5):
    return [f"u{k % number}" for k in range(number * events)]


@pytest.mark.parametrize("name", ["nan", "NULL", "None", "-1", "-1.0", "unknown", "(not set)", "8.80012E+14", "\\N"])
def test_an_id_that_says_nothing_is_named_with_what_drops_it(name):
    (said,) = warnings(people() + [name] * 200)
    assert said.startswith(f"user id {name!r}, which reads as none, has 200 of 1,200 events (17%). --where ")
    condition = Condition.of(shlex.split(said.split("--where ")[1])[0])
    assert condition([pa.array([name, "u1"])]).to_pylist() == [False, True]
    (said,) = warnings(people(), [*[f"i{k % 50}" for k in range(900)], *[name] * 100], where="a > 1 or b")
    assert said.startswith(f"item id {name!r}")
    assert "(a > 1 or b) and item_id !=" in said


@pytest.mark.parametrize("name", ["nan", "NULL", "-1", "0", "8.80012E+14", "nancy", "nobody"])
def test_an_id_with_an_ordinary_number_of_events_is_left_alone(name):
    assert warnings(people() + [name] * 9) == []
    assert warnings(people(), [*[f"i{k % 50}" for k in range(995)], *[name] * 5]) == []


def test_0_may_be_the_first_id_of_data_numbered_from_0():
    from_0 = [str(min(k * k // 900, 99)) for k in range(1000)]  # 0 is the most frequent by far
    assert from_0.count("0") / 1000 > oddities._LARGE_SHARE
    assert warnings(people(), from_0) == []
    assert warnings([*people(), *["0"] * 60]) == []
    (said,) = warnings([*people(), *["0"] * 600])
    assert said.startswith("user id '0', which reads as none, has 600 of 1,600 events (38%). --where 'user_id != '")
    (said,) = warnings(people(), ["0"] * 300 + [f"i{k % 50}" for k in range(700)])
    assert said.startswith("item id '0'")


def test_a_robot_has_a_thousand_times_the_events_of_others():
    assert warnings([*people(), *["bot"] * 4_999]) == []
    (said,) = warnings([*people(), *["bot"] * 5_000])
    assert said.startswith("user 'bot' has 5,000 of 6,000 events (83%), 1,000 times the median of 5: ")
    assert "--where 'user_id != '\"'\"'bot'\"'\"''" in said


@pytest.mark.parametrize(("time_format", "named"), [("s", "2001-09-09T01:46:40"), ("order", "1000000000")])
def test_one_time_for_most_events_is_named(time_format, named):
    others = [10**9 + k for k in range(1, 500)]
    assert warnings(people(), times=[10**9] * 501 + others[:-2] + [5, 6], time_format=time_format)[0].startswith(
        f"At least 501 of 1,000 events (50%) have one time, {named}: their order is the file's."
    )
    assert warnings(people(), times=[10**9] * 400 + [10**9 + k for k in range(600)]) == []
    assert warnings(people(), times=[0] * 1000, time_format="") == []


def test_ties_are_said_in_words_where_they_are_most(prepare):
    """Every basket has one time, and a user has two baskets or more: the order within one is the file's."""
    lines = [f"c{user},i{user * 7 % 11 + k},b{user}-{basket},{1_600_000_000 + 100 * user + 10 * basket}"
             for user in range(9) for basket in range(3) for k in range(4)]  # fmt: skip
    text = "\n".join(["user_id,item_id,basket,timestamp", *lines, ""])
    outcome = prepare(text)
    (said,) = outcome.stats["warnings"]
    assert said.startswith("108 of 108 events (100%) share their time with a neighbour, 100% of the test targets among")
    assert "make it a session: --user-column none --session-column BASKET --split last-days" in said
    assert f"warning: {said}" in outcome.out
    assert (outcome.stats["input"]["first_time"], outcome.stats["input"]["last_time"]) == (
        "2020-09-13T12:26:40", "2020-09-13T12:40:20",
    )  # fmt: skip
    sessions = prepare(text, "--session-column basket --user-column none --split last-days --test-days 0.001",
                       output="sessions")  # fmt: skip
    assert "Give a finer --time-column" in sessions.stats["warnings"][0]
    from seqrec_tf.evaluation import audits

    folder = outcome.folder
    figures = audits.describe(folder, *folder.training_events())
    assert figures["audits"]["warnings"] == [said]


def test_a_test_period_before_all_events_says_what_there_is(prepare):
    text = "user_id,item_id,timestamp\n" + "".join(f"u{k % 3},i{k},{1_600_000_000 + k}\n" for k in range(12))
    outcome = prepare(text, "--split time --test-from 2019-01-01")
    assert outcome.status == 2
    assert (
        "--test-from 2019-01-01 leaves what is before it for training; the events are from 2020-09-13T12:26:40 to "
        "2020-09-13T12:26:51." in outcome.err
    )


def test_events_beyond_the_newest_count_for_the_robot_that_has_them(prepare):
    text = "user_id,item_id,timestamp\n" + "".join(f"u{k % 40},i{k % 9},{1_600_000_000 + k}\n" for k in range(80))
    text += "".join(f"bot,i{k % 9},{1_600_000_000 + k}\n" for k in range(2_500))
    outcome = prepare(text, "--max-events 5 --range-bytes 9000")
    assert outcome.stats["warnings"][0].startswith("user 'bot' has 2,500 of 2,580 events (97%), 1,250 times the median")
