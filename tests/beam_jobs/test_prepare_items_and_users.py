"""Items and users files: their formats, and the side features that `seqrec prepare` makes of them."""

import json
import re

import pytest
from small_logs import THREE_USERS, log

from beam_jobs import pipeline
from seqrec_tf import schema


def test_items_files_without_a_header_and_with_gaps_describe_every_item(prepare, tmp_path):
    (tmp_path / "items.dat").write_bytes("b::Pâté::Food|Meat\nq\n".encode("latin-1"))
    outcome = prepare(
        THREE_USERS,
        *("--items", str(tmp_path / "items.dat"), "--items-format", "csv", "--items-delimiter", "::"),
        "--items-encoding latin-1 --items-columns item_id,title,genres --max-rejected 0.5",
        *("--item-feature", "title:text"),
    )
    assert outcome.status == 0, outcome.err
    assert "Inferred item features genres:categories.\n" in outcome.err
    assert outcome.item_rows() == [("a", "", []), ("b", "Pâté", [2, 3]), ("c", "", [])]
    assert outcome.stats["items"]["without_side_information"] == 2
    assert outcome.stats["input"]["items_file"]["rejected_by_reason"] == {"wrong number of columns": 1}
    assert [(row["line"], row["text"]) for row in outcome.rejected()] == [(2, "q")]


def test_json_items_may_lack_keys(prepare, tmp_path):
    rows = [{"item_id": "a", "price": 1.5, "tags": ["x", None, "é"]}, {"item_id": "b", "new": True}, {"price": 2}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = prepare(
        THREE_USERS,
        f"--items {tmp_path / 'items.jsonl'} --max-rejected 0.4",
        "--item-feature price:text tags:categories new:text",
    )
    assert outcome.status == 0, outcome.err
    assert outcome.item_rows() == [("a", "1.5", [2, 3], ""), ("b", "", [], "true"), ("c", "", [], "")]
    assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [(3, "empty item id")]


def test_quotes_in_items_files_may_be_letters(prepare, tmp_path):
    (tmp_path / "items.tsv").write_text('item_id\ttitle\na\t"Great" expectations\n')
    options = f"--items {tmp_path / 'items.tsv'} --item-feature title:text --items-no-quotes"
    assert prepare(THREE_USERS, options).item_rows()[0] == ("a", '"Great" expectations')


def test_many_items_are_in_several_files_in_the_order_of_their_ids(prepare, tmp_path, monkeypatch):
    items = [f"i{number:02d}" for number in range(30)]
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{item},t {item} x\n" for item in items))
    events = log(*(f"u{user} {item} {user + n}" for user in range(3) for n, item in enumerate(items[user:])))
    options = f"--items {tmp_path / 'items.csv'} --item-feature title:text"
    whole = prepare(events, options, output="whole")
    monkeypatch.setattr(pipeline, "_SHARD_BYTES", 100)
    cut = prepare(events, options, "--range-bytes 40")
    assert len(whole.folder.item_files()) == 1
    assert len(cut.folder.item_files()) > 2
    assert cut.item_rows() == whole.item_rows()
    assert [row[0] for row in cut.item_rows()] == cut.folder.item_ids


def test_names_of_columns_become_names_of_features(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,Product Title,1st/shelf\na,A b c,2\n")
    options = '--item-feature "Product Title:text" 1st/shelf:number --require-item-features "Product Title"'
    outcome = prepare(THREE_USERS, f"--items {tmp_path / 'items.csv'} {options}", "--min-user-events 2")
    assert outcome.status == 0, outcome.err
    names = [feature.name for feature in outcome.folder.schema.item_features]
    assert names == ["item_id", "Product_Title", "column_1st_shelf"]
    for header, message in (("a b,a/b", "more than one column for a feature named 'a_b'"), ("名,b", "Rename it")):
        (tmp_path / "items.csv").write_text(f"item_id,{header}\na,1,2\n")
        assert message in prepare(THREE_USERS, f"--items {tmp_path / 'items.csv'}", output="other").err


def test_item_features_are_learned_from_training_items_alone(prepare, tmp_path):
    (tmp_path / "items.csv").write_text(
        "item_id,price,brand,tags,photo\n"
        "a,1,acme,x|y,a.jpg\nb,3,acme,y,b.jpg\nc,5,zeta,,c.jpg\nnew,100,fresh,fresh|y,d.jpg\nb,4,acme,y,b.jpg\n"
        "broken,-inf,acme,x,e.jpg\nbroken2,much,acme,x,e.jpg\n"
    )
    text = log("t a 1", "t b 2", "t c 3", "u c 1", "u a 2", "v b 11", "v new 12", "w new 21", "w a 22")
    declared = ("--items", str(tmp_path / "items.csv"), "--item-feature", "price:number", "brand:category")
    outcome = prepare(text, "--split time --valid-from 10 --test-from 20 --max-rejected 0.5", *declared)
    assert outcome.status == 0, outcome.err
    assert "Inferred item features tags:categories photo:image-path.\n" in outcome.err
    learned = json.loads((outcome.output / schema.FEATURES_FILE).read_text())
    assert learned["price"] == {"mean": 3.0, "deviation": pytest.approx((8 / 3) ** 0.5)}
    assert learned["brand"] == {"values": ["acme", "zeta"]}
    assert learned["tags"] == {"values": ["y", "x"], "most": 2}
    rows = {row[0]: row[1:] for row in outcome.item_rows()}
    deviation = (8 / 3) ** 0.5
    assert rows["a"] == (pytest.approx(-2 / deviation), 2, [3, 2], "a.jpg")
    assert rows["new"] == (pytest.approx(97 / deviation), 1, [1, 2], "d.jpg")
    assert rows["c"][1:3] == (3, [])
    sizes = {feature.name: feature.num_values for feature in outcome.folder.schema.item_features}
    assert sizes == {"item_id": 0, "price": 0, "brand": 4, "tags": 4, "photo": 0}
    assert outcome.stats["items"]["conflicting_in_items_file"] == 1
    assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [(7, "bad number"), (8, "bad number")]


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("price", "NAME:KIND, such as price:number, got 'price'"),
        ("prize:number", "no column 'prize' .*did you mean 'price'"),
        ("price:nummer", "must be one of number, .* got 'nummer'. Did you mean 'number'"),
    ],
)
def test_a_wrong_declaration_of_an_item_feature_says_what_is_expected(prepare, tmp_path, declaration, message):
    (tmp_path / "items.csv").write_text("item_id,price\na,1\n")
    outcome = prepare(THREE_USERS, "--items", str(tmp_path / "items.csv"), "--item-feature", declaration)
    assert outcome.status == 2
    assert re.search(message, outcome.err)


def test_features_of_users_are_in_their_records_and_learned_from_training_users_alone(prepare, tmp_path):
    (tmp_path / "users.csv").write_text(
        "who,country,age,hobbies\nt,no,20,x|y\nu,se,40,y\nlate,fi,100,z\nnobody,dk,3,q\nu,se,41,y\n,se,1,x\n"
    )
    text = log("t a 1", "t b 2", "u b 1", "u a 2", "w a 3", "w b 4", "late a 21", "late b 22", "u a 23")
    outcome = prepare(
        text,
        "--split time --test-from 20 --max-rejected 0.5 --users",
        str(tmp_path / "users.csv"),
        "--user-id-column who --user-feature country:category age:number",
    )
    assert outcome.status == 0, outcome.err
    assert "Inferred user features hobbies:categories.\n" in outcome.err
    learned = json.loads((outcome.output / schema.USER_FEATURES_FILE).read_text())
    assert learned == {
        "country": {"values": ["no", "se"]},
        "age": {"mean": 30.0, "deviation": 10.0},
        "hobbies": {"values": ["y", "x"], "most": 2},
    }
    train = {row["user_id"]: (row["country"], row["age"], row["hobbies"]) for row in outcome.records("train")}
    assert train["t"] == (2, -1.0, [3, 2])
    assert train["u"] == (3, 1.0, [2])
    assert train["w"] == (0, pytest.approx(float("nan"), nan_ok=True), [])
    test = {row["user_id"]: (row["country"], row["age"], row["hobbies"]) for row in outcome.records("test")}
    assert test == {"late": (1, 7.0, [1]), "u": (3, 1.0, [2])}
    sizes = {feature.name: feature.num_values for feature in outcome.folder.schema.user_features}
    assert sizes == {"country": 4, "age": 0, "hobbies": 4}
    assert outcome.stats["users"] == {
        "without_side_information": 1,
        "with_side_information": 3,
        "in_users_file_without_events": 1,
        "duplicates_in_users_file": 1,
        "conflicting_in_users_file": 1,
        "conflict": {"id": "u", "column": "age", "first": "40", "other": "41"},
        "unjoined": {},
    }
    assert [(row["line"], row["reason"]) for row in outcome.rejected()] == [(7, "empty user id")]
    assert "1 users have no row in the users files, 1 rows have no events" in outcome.out


def test_users_without_records_have_no_events(prepare, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,country\none,no\ntwo,no\nthree,no\nnobody,no\n")
    text = log(
        "one a 1", "two a 1", "two b 2", "three a 1", "three b 2", "three c 3", "four a 1", "five a 1", "five b 2"
    )
    outcome = prepare(text, "--users", str(tmp_path / "users.csv"), "--user-feature country:category")
    assert outcome.stats["users"]["in_users_file_without_events"] == 2  # one and nobody
    assert outcome.stats["users"]["without_side_information"] == 1  # five
    assert outcome.folder.schema.num_users == 2  # the training sequence of three is of one event


def test_users_files_do_not_change_the_sequences(prepare, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,country\nu,no\n")
    plain = prepare(THREE_USERS, output="plain")
    described = prepare(THREE_USERS, "--users", str(tmp_path / "users.csv"), "--user-feature country:category")
    for split in schema.SPLITS:
        assert described.histories(split) == plain.histories(split)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--user-feature labels:number", "has a column 'labels' that is not the --user-id-column"),
        ("--user-column none --session-column user_id", "--users needs --user-column"),
    ],
)
def test_users_files_that_cannot_be_joined_are_refused(prepare, tmp_path, options, message):
    (tmp_path / "users.csv").write_text("user_id,labels\nann,1\n")
    outcome = prepare(THREE_USERS, "--users", str(tmp_path / "users.csv"), options)
    assert outcome.status == 2
    assert message in outcome.err


def test_many_small_items_files_become_one_file(prepare, tmp_path):
    for number, item in enumerate("abcdefghi"):
        (tmp_path / f"items-{number}.csv").write_text(f"item_id,title\n{item},{item.upper()}\n")
    outcome = prepare(THREE_USERS, f"--items {tmp_path}/items-*.csv --item-feature title:text")
    assert outcome.status == 0, outcome.err
    assert len(list((outcome.output / "items").iterdir())) == 1
    assert outcome.item_rows() == [("a", "A"), ("b", "B"), ("c", "C")]
