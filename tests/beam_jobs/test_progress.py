"""What `seqrec prepare` shows while it runs, and of its result."""

import logging
import sys

import pytest
from small_logs import THREE_USERS, log

from beam_jobs import progress
from beam_jobs.progress import READ_ALL, READ_SOME, WRITTEN, Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only a test lets pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def say(handler, message, *values):
    handler.handle(logging.LogRecord("beam_jobs", logging.INFO, "", 0, message, values, None))


def test_many_files_are_one_line(capsys, clock):
    handler = Progress([f"day-{k}.csv" for k in range(305)], 610, 610_000)
    for k in range(610):
        clock[0] += 0.01
        say(handler, READ_SOME, f"day-{k // 2}.csv", 10, 1_000)
        say(handler, READ_ALL, f"day-{k // 2}.csv", 0, 0)
    assert capsys.readouterr().err == "read day-0.csv and 304 more files: 6,100 lines in 6.1 s\n"


def test_a_terminal_shows_the_rate_and_the_time_left(capsys, clock, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    handler = Progress(["events.csv"], 1, 1_000)
    clock[0] += 2
    say(handler, READ_SOME, "events.csv", 500, 250)
    assert capsys.readouterr().err == "\r\x1b[Kreading: 500 lines, 250 a second, 25%, 6 s left"
    clock[0] += 0.1
    say(handler, READ_SOME, "events.csv", 500, 250)
    assert capsys.readouterr().err == ""
    say(handler, READ_ALL, "events.csv", 0, 0)
    say(handler, WRITTEN, "train/part-00000", 7)
    handler.close()
    assert capsys.readouterr().err == (
        "\r\x1b[Kread events.csv: 1,000 lines in 2.1 s\n\r\x1b[Kwriting: 7 records in 1 files\r\x1b[K"
    )


def test_the_summary_calls_sequences_what_they_are_and_ends_with_what_to_run(prepare):
    def words(*options, **how):
        outcome = prepare(*options, output="my shop", **how)
        assert outcome.status == 0, outcome.err
        return outcome.out

    said = words(THREE_USERS)
    assert said.splitlines()[1].split() == ["step", "users", "items", "events"]
    assert len(said.splitlines()) <= 25
    folder = said.splitlines()[-1].split("--dataset ")[1].split(" --model")[0]
    assert folder.startswith("'")
    assert folder.endswith("/my shop'")
    visits = log("v a 1", "v b 2", "v c 3", "v d 4").replace("user_id", "visit")
    options = "--overwrite --user-column none --session-column visit"
    assert words(visits, options).splitlines()[1].split()[1] == "sessions"
    lines = words("a b c d\n", "--overwrite --format sequences", suffix=".txt")
    assert lines.splitlines()[1].split()[1] == "sequences"
