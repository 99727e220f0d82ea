"""How `seqrec prepare` divides events among training, validation and test."""

import collections
import random

import pytest
from small_logs import THREE_USERS, log

from seqrec_tf import schema


def test_leave_one_out_agrees_with_a_plain_loop(prepare):
    generator = random.Random(2)
    events = [
        (f"u{generator.randrange(30)}", f"i{generator.randrange(12)}", generator.randrange(20)) for _ in range(300)
    ]
    outcome = prepare(log(*(f"{user} {item} {time}" for user, item, time in events)), "--range-bytes", "100")

    by_user = collections.defaultdict(list)
    for user, item, _ in sorted(events, key=lambda event: event[2]):  # sorted() is stable
        by_user[user].append(item)
    expected: dict = {"train": {}, "valid": {}, "test": {}}
    for user, items in by_user.items():
        if len(items) < 3:
            expected["train"][user] = (items[:1], items[1:])
            continue
        expected["train"][user] = (items[:1], items[1:-2])
        expected["valid"][user] = (items[:-2], items[-2:-1])
        expected["test"][user] = (items[:-1], items[-1:])
    assert {split: outcome.histories(split) for split in schema.SPLITS} == expected
    counts = collections.Counter(item for history, targets in expected["train"].values() for item in history + targets)
    assert outcome.folder.item_ids == sorted({event[1] for event in events}, key=lambda item: (-counts[item], item))
    assert outcome.folder.item_counts == sorted(counts.values(), reverse=True)


def test_a_share_of_the_users_is_for_validation(prepare):
    text = log(*(f"u{user} i{(user * 7 + time * 3) % 40} {time}" for user in range(200) for time in range(5)))
    plain = prepare(text, output="plain")
    outcome = prepare(text, "--valid-share 0.25")
    assert outcome.status == 0, outcome.err
    assert outcome.histories("test") == plain.histories("test")
    train, valid = outcome.histories("train"), outcome.histories("valid")
    plain_train, plain_valid = plain.histories("train"), plain.histories("valid")
    assert 25 < len(valid) < 75
    assert valid.items() <= plain_valid.items()
    for user, (history, targets) in plain_train.items():
        held_out = plain_valid[user][1]
        assert train[user] == (history, targets if user in valid else targets + held_out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--valid-share 1.5", "--valid-share must be from 0 to 1, got 1.5"),
        ("--valid-share 0.5 --split time --test-from 3", "--valid-share needs --split leave-one-out"),
    ],
)
def test_a_share_for_validation_is_of_leave_one_out(prepare, options, message):
    outcome = prepare(THREE_USERS, options)
    assert outcome.status == 2
    assert message in outcome.err


def test_items_held_out_occur_as_test_targets_alone(prepare):
    text = log(*(f"u{user} i{(user * 7 + time * 3) % 40:02d} {time}" for user in range(60) for time in range(8)))
    plain = prepare(text, output="plain").histories("test")
    outcome = prepare(text, "--hold-out-items 0.2")
    assert outcome.status == 0, outcome.err
    counts = dict(zip(outcome.folder.item_ids, outcome.folder.item_counts, strict=True))
    held_out = {item for item, count in counts.items() if not count}
    assert 3 <= len(held_out) <= 14
    for user, (history, targets) in outcome.histories("test").items():
        assert history == [item for item in plain[user][0] if item not in held_out]
        assert targets == plain[user][1]
    assert not held_out & {item for history, target in outcome.histories("valid").values() for item in history + target}
    assert outcome.stats["items"]["without_training_events"] == len(held_out)


def test_items_held_out_do_not_train_as_the_newest_of_short_sequences(prepare):
    events = [f"u{user} i{item} {time}" for user in range(30) for time, item in enumerate([user, user + 1])]
    outcome = prepare(log(*events, "v i1 1", "v i2 2", "v i3 3", "v i4 4"), "--hold-out-items 0.3")
    assert outcome.status == 0, outcome.err
    from beam_jobs.sequences import is_chosen

    held_out = {f"i{item}" for item in range(31) if is_chosen(f"i{item}", 0.3, b"hold-out")}
    assert 3 <= len(held_out) <= 20
    trained = {item for row in outcome.records("train") for item in row["items"]}
    assert not held_out & trained


def test_items_are_held_out_of_leave_one_out_alone(prepare):
    outcome = prepare(THREE_USERS, "--hold-out-items 0.1 --split time --test-from 3")
    assert outcome.status == 2
    assert "--hold-out-items needs --split leave-one-out" in outcome.err


UNSEEN = ["t a 1", "t b 2", "u a 1", "u new 11", "u b 12", "v b 11", "v new 12", "v2 new 21", "v2 new 22", "u a 22"]


def test_a_split_by_time_keeps_unseen_items_as_candidates(prepare):
    outcome = prepare(log(*UNSEEN), "--split time --valid-from 10 --test-from 20")
    assert outcome.histories("train") == {"t": (["a"], ["b"])}
    assert outcome.histories("valid") == {"u": (["a"], ["new", "b"]), "v": (["b"], ["new"])}
    assert outcome.histories("test") == {"u": (["a", "new", "b"], ["a"]), "v2": (["new"], ["new"])}
    assert outcome.folder.item_ids == ["a", "b", "new"]
    assert outcome.stats["items"]["without_training_events"] == 1


def test_unseen_items_can_be_dropped_with_what_only_they_would_test(prepare):
    outcome = prepare(log(*UNSEEN), "--split time --valid-from 10 --test-from 20 --unseen-items drop")
    assert outcome.histories("valid") == {"u": (["a"], ["b"])}
    assert outcome.histories("test") == {"u": (["a", "b"], ["a"])}
    assert outcome.folder.item_ids == ["a", "b"]
    assert outcome.stats["items"]["dropped_as_unseen"] == 1
    splits = outcome.stats["splits"]
    assert [splits[name]["dropped_sequences"] for name in schema.SPLITS] == [0, 1, 1]
    assert [splits[name]["dropped_targets"] for name in schema.SPLITS] == [0, 2, 1]


def test_a_day_written_as_a_number_is_not_taken_for_seconds(prepare):
    text = log("u a 1700000000", "u b 1700000001", "u c 1700000002", "u d 1700000003")
    outcome = prepare(text, "--split time --test-from 20231114")
    assert outcome.status == 2
    assert "write a day as ISO 8601" in outcome.err


def test_sessions_of_the_last_days_are_held_out_whole(prepare):
    text = log(
        "u a 2024-01-01 1", "u b 2024-01-01 1", "u a 2024-01-08 2", "u b 2024-01-08 2", "v a 2024-01-09 1",
        "v b 2024-01-10 1",
        header="user_id,item_id,timestamp,visit\n",
    )  # fmt: skip
    outcome = prepare(text, "--session-column visit --split last-days --test-days 1 --valid-days 2")
    found = {
        split: [(row["user_id"], row["session_id"], row["target_start"]) for row in outcome.records(split)]
        for split in schema.SPLITS
    }
    assert found == {"train": [("u", "1", 1)], "valid": [("u", "2", 1)], "test": [("v", "1", 1)]}


def test_lines_may_be_whole_sequences_split_by_file(prepare, tmp_path):
    (tmp_path / "test.txt").write_text("3 1\n4 4 2\n5\n")  # of 5 alone there is nothing to predict
    outcome = prepare(
        ["1 2 3\n", "2 1\n3 3\n"],
        *("--format", "sequences", "--split", "files", "--valid-sequences", "1", "--range-bytes", "4"),
        *("--test-input", str(tmp_path / "test.txt")),
        suffix=".txt",
    )
    assert outcome.status == 0, outcome.err
    rows = {split: [row["items"] for row in outcome.records(split)] for split in schema.SPLITS}
    assert rows == {
        "train": [["1", "2", "3"], ["2", "1"]],
        "valid": [["3", "3"]],
        "test": [["3", "1"], ["4", "4", "2"]],
    }
    assert outcome.folder.item_ids == ["1", "2", "3", "4"]
    assert "left out" not in outcome.out
    assert [feature.name for feature in outcome.folder.schema.features] == ["item_ids", "target_start"]


@pytest.mark.parametrize("kind", ["events", "sequences"])
def test_training_may_see_sequences_in_the_order_of_time(prepare, tmp_path, kind):
    """In whole windows: those of the first window end before those of the second."""
    from seqrec_tf import data
    from seqrec_tf.models import SASRec

    number, shuffle = 40, random.Random(0).sample
    users = [f"u{place:02d}" for place in shuffle(range(number), number)]
    if kind == "events":
        lines = [
            f"{user} i{item % 2 + 2 * place:02d} {100 * place + item}"
            for place, user in enumerate(users)
            for item in range(4)
        ]
        outcome = prepare(log(*shuffle(lines, len(lines))), "--record-order", "time", "--num-shards", "3")
    else:
        text = "".join(f"i{2 * place:02d} i{2 * place + 1:02d}\n" for place in range(number))
        (tmp_path / "later.txt").write_text("i00 i01\n")
        options = ["--format", "sequences", "--split", "files", "--test-input", str(tmp_path / "later.txt")]
        outcome = prepare(text, "--user-column", "none", "--time-column", "none", *options, "--record-order", "time")
    assert outcome.status == 0
    assert outcome.folder.schema.record_order == schema.TIME_ORDER
    model = SASRec.from_dataset(outcome.folder, dim=4, max_len=2)
    for window, is_sorted in ((8, True), (1000, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "_WINDOW_OF_TIME", window)
            batches = data.load(outcome.folder, model, batch_size=1 if is_sorted else 4, epochs=range(1))
            names = [outcome.folder.item_ids[item - 1] for x, _, _ in batches for item in x["item_ids"].numpy()[:, 0]]
        places = [int(name[1:]) // 2 for name in names]
        assert sorted(places) == list(range(number))
        windows = [max(places[:10]) < 24 and min(places[-10:]) > 16]
        assert windows == [is_sorted]
