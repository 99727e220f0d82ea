"""Options of `seqrec prepare`: wrong ones are refused, presets know the public data sets."""

import os
import sys

import pytest
from small_logs import THREE_USERS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--user-column", "user"], "no column 'user' (--user-column); did you mean 'user_id'?"),
        (["--time-column", "when"], "--time-column none"),
        (["--user-column", "9"], "no column number 9"),
        (["--split", "time"], "--test-from"),
        (["--split", "time", "--test-from", "soon"], "must be a number or ISO 8601"),
        (["--split", "last-days"], "only holds an order"),
        (["--split", "last-days", "--time-column", "none"], "needs a --time-column"),
        (["--test-days", "-1"], "must not be negative"),
        (["--min-item-events", "0"], "at least 1"),
        (["--positive-only"], "--label-column"),
        (["--format", "sequences", "--label-column", "1"], "--label-column does not apply"),
        (["--format", "sequences", "--time-column", "2"], "--time-column does not apply"),
        (["--format", "sequences", "--item-column", "1"], "--item-column does not apply"),
        (["--format", "sequences", "--time-format", "s"], "--time-format does not apply"),
        (["--format", "sequences", "--no-quotes"], "--no-quotes does not apply"),
        (["--format", "sequences", "--multiline", "yes"], "--multiline does not apply"),
        (["--format", "sequences", "--user-column", "1"], "first in each line (--user-column 0) or nowhere (none)"),
        (["--format", "sequences", "--user-column", "user_id"], "got --user-column user_id"),
        (["--format", "sequences", "--users", "users.csv"], "--users needs --user-column 0"),
        (["--format", "sequences", "--header"], "--header does not apply"),
        (
            ["--format", "jsonl", "--user-column", "0"],
            "are no JSON objects; the first is 'user_id,item_id,timestamp'. Give --format csv",
        ),
        (["--require-items"], "--items"),
        (["--items", "nowhere/*.csv"], "matches no file"),
        (["--input", "nowhere.csv"], "matches no file"),
        (["--input", "."], "is a folder"),
        (["--format", "jsonl"], "are no JSON objects"),
        (["--encoding", "utf-17"], "no encoding"),
        (["--encoding", "utf-16"], "is not utf-16, but UTF-8"),
        (["--preset", "retail-rocket"], "Did you mean 'retailrocket'?"),
        (["--split", "time", "--test-from", "3", "--max-length", "4"], "--max-length would leave --split time less"),
        (["--min_item_events", "5"], "did you mean --min-item-events?"),
        (["--test-input", "x.csv"], "--split files"),
        (["--min-user-events", "9"], "No training sequence with a target is left"),
        (["--item-column", "none"], "Give --item-column"),
        (["--test-days", "3"], "--test-days needs --split last-days"),
        (["--item-id-column", "sku"], "--item-id-column needs --items."),
        (["--users-delimiter", "tab"], "--users-delimiter needs --users."),
        (["--time-column", "none", "--time-format", "ms"], "--time-format needs --time-column."),
        (["--format", "jsonl", "--delimiter", "tab"], "--delimiter does not apply to --format jsonl."),
        (["--runner", "DataflowRunner"], "is on this machine, where Dataflow's workers are not"),
        (["--runner", "dataflow"], "is on this machine, where Dataflow's workers are not"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(prepare, options, message):
    outcome = prepare(THREE_USERS, *options)
    assert outcome.status == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("seqrec prepare: ")]
    assert message in line
    assert "Traceback" not in outcome.err
    assert not any("dataset" in path.name for path in outcome.output.parent.iterdir())


def test_seqrec_and_the_module_are_the_same_command():
    import subprocess

    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "beam_jobs.prepare_sequences", "--input", "nowhere.csv", "--output", "x"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert "seqrec prepare: --input nowhere.csv matches no file." in done.stderr


def test_movielens_1m_is_known_as_it_is_published(prepare, tmp_path):
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").write_text(
        "1::7::5::978300760\n1::9::3::978300761\n1::5::4::978300762\n1::8::4::978300763\n"
    )
    (tmp_path / "ml-1m" / "movies.dat").write_bytes("7::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"))
    outcome = prepare([], "--preset", "movielens-1m", "--input", str(tmp_path / "ml-1m"))
    assert outcome.status == 0, outcome.err
    assert [row["timestamps"] for row in outcome.records("test")] == [[978300760, 978300761, 978300762, 978300763]]
    assert outcome.item_rows()[0] == ("7", "Misérables, Les (1995)", [2, 3])


def test_what_is_given_beside_a_preset_leaves_no_place_for_what_depends_on_it(prepare, tmp_path):
    (tmp_path / "ratings.dat").write_text("".join(f"1::{item}::5::{item}\n" for item in range(4)))
    outcome = prepare([], f"--preset movielens-1m --input {tmp_path}/ratings.dat --time-column none")
    assert outcome.status == 0, outcome.err
    assert [row["items"] for row in outcome.records("test")] == [list("0123")]


def test_a_preset_of_given_splits_may_be_split_otherwise(prepare, tmp_path):
    folder = tmp_path / "retailrocket"
    folder.mkdir()
    (folder / "train_sessions.txt").write_text("a b c d\nb c d\n")
    (folder / "test_sessions.txt").write_text("a b\n")
    outcome = prepare([], f"--preset retailrocket --input {folder} --split leave-one-out")
    assert outcome.status == 0, outcome.err
    assert [row["items"] for row in outcome.records("test")] == [list("abcd"), list("bcd")]


def test_movielens_100k_needs_no_options_but_its_preset(prepare, data_dir):
    outcome = prepare([], "--preset", "movielens-100k", "--input", str(data_dir / "ml-100k"))
    assert outcome.status == 0, outcome.err
    assert outcome.steps() == [("parsed", 943, 1682, 100_000)]
    assert outcome.folder.schema.time_unit == "seconds"
    assert outcome.item_rows()[outcome.folder.item_ids.index("50")][1] == "Star Wars (1977)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "folder", "options", "steps", "targets"),
    [
        (
            "movielens-1m",
            "ml-1m",
            ["--min-item-events", "5"],
            [("parsed", 6040, 3706, 1_000_209), ("filter", 6040, 3416, 999_611)],
            6040,
        ),
        ("amazon-beauty", "amazon-beauty", [], [("parsed", 40_226, 54_542, 353_962)], 40_226),
        ("retailrocket", "retailrocket", [], [("parsed", 126_168 + 4_735, 36_968, 685_984 + 24_602)], 19_867),
    ],
)
def test_public_data_sets_have_the_sizes_that_papers_report(prepare, data_dir, preset, folder, options, steps, targets):
    outcome = prepare([], "--preset", preset, "--input", str(data_dir / folder), *options)
    assert outcome.status == 0, outcome.err
    assert outcome.steps() == steps
    assert outcome.stats["splits"]["test"]["targets"] == targets
