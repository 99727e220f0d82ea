"""Ids that files spell in several ways: one user stays one, two stay two, and what was mended is said."""

import json

import pyarrow as pa
import pytest
from both_ways import assert_both_ways_agree
from pyarrow import parquet

from beam_jobs.lines import Range
from beam_jobs.parsing import Columns, TextFormat
from seqrec_tf import ids

HEADER = "user_id,item_id,timestamp\n"


def events(users, items, *, spell=str, at=0):
    """Every user touches every item, in order."""
    return HEADER + "".join(
        f"{spell(user)},{spell(item)},{978_300_000 + at + place}\n"
        for user in users
        for place, item in enumerate(items)
    )


def test_numbers_that_came_as_floats_are_the_same_users_and_items(prepare):
    numbers = events(range(3), range(4))
    floats = events(range(3), range(4, 7), spell=float, at=4)
    outcome = prepare([numbers, floats], "--range-bytes 60")
    assert outcome.status == 0, outcome.err
    assert {row["user_id"]: row["items"] for row in outcome.records("test")} == {
        str(user): [str(item) for item in range(7)] for user in range(3)
    }
    schema = outcome.folder.schema
    assert (schema.id_form, schema.numeric_ids) == ("normal", ("item", "user"))
    assert outcome.stats["ids"] == [
        {"of": "item", "mended": "fractions", "rows": 9, "example": "4.0", "normal": "4"},
        {"of": "user", "mended": "fractions", "rows": 9, "example": "0.0", "normal": "0"},
    ]
    assert "ids: 9 item ids were whole numbers with a fraction, such as '4.0', now '4'" in outcome.out


def test_a_column_with_one_id_that_is_no_number_is_text(prepare):
    outcome = prepare([events(["1", "2.0"], ["7", "7.0", "8", "9"]), events(["2"], ["x", "7", "8"], at=4)])
    assert sorted(outcome.folder.item_ids) == ["7", "7.0", "8", "9", "x"]
    assert {row["user_id"]: row["items"] for row in outcome.records("test")} == {
        "1": ["7", "7.0", "8", "9"],
        "2": ["7", "7.0", "8", "9", "x", "7", "8"],
    }
    assert outcome.folder.schema.numeric_ids == ("user",)
    assert [row["of"] for row in outcome.stats["ids"]] == ["user"]


def test_leading_zeros_stay(prepare):
    outcome = prepare(events("uv", ["007", "7", "8", "7.0"]))
    assert sorted(outcome.folder.item_ids) == ["007", "7", "7.0", "8"]
    assert outcome.stats["ids"] == []


def test_blanks_and_accents_make_no_second_user(prepare):
    text = HEADER + "u0,Cafe\u0301,1\nu0 ,i1,2\nu0,\u00a0i2,3\nu0 ,Caf\u00e9,4\n"
    outcome = prepare(text)
    assert [(row["user_id"], row["items"]) for row in outcome.records("test")] == [
        ("u0", ["Caf\u00e9", "i1", "i2", "Caf\u00e9"])
    ]
    assert [tuple(row.values()) for row in outcome.stats["ids"]] == [
        ("item", "accents", 1, "Cafe\u0301", "Caf\u00e9"),
        ("item", "blanks", 1, "\u00a0i2", "i2"),
        ("user", "blanks", 2, "u0 ", "u0"),
    ]


def test_raw_ids_stay_as_they_are(prepare):
    outcome = prepare(events(["1", "1 ", "1.0"], ["a", "b ", "c", "d"]), "--raw-ids")
    assert [row["user_id"] for row in outcome.records("test")] == ["1", "1 ", "1.0"]
    assert "b " in outcome.folder.item_ids
    assert (outcome.folder.schema.id_form, outcome.folder.schema.numeric_ids) == ("raw", ())


def test_items_and_users_files_spell_ids_in_their_own_way(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,price\n" + "".join(f" {item},{item}.5\n" for item in range(4)))
    (tmp_path / "users.csv").write_text("user_id,age\n" + "".join(f"{user},{user}\n" for user in range(3)))
    outcome = prepare(
        events(range(3), range(4), spell=float),
        f"--items {tmp_path / 'items.csv'} --users {tmp_path / 'users.csv'} --range-bytes 30 --user-feature age:number",
    )
    assert outcome.status == 0, outcome.err
    assert outcome.stats["items"]["without_side_information"] == 0
    assert outcome.stats["users"]["without_side_information"] == 0
    assert sorted(row[0] for row in outcome.item_rows()) == ["0", "1", "2", "3"]


def test_an_items_file_with_codes_makes_items_text(prepare, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,price\n1,2\n1.0,3\n01,4\n")
    outcome = prepare(events("uv", ["1", "1.0", "2", "01"]), f"--items {tmp_path / 'items.csv'}")
    assert sorted(outcome.folder.item_ids) == ["01", "1", "1.0", "2"]


def test_floats_that_may_be_several_users_are_kept_apart_by_their_text_or_rejected(prepare, tmp_path):
    lines = "".join(
        json.dumps({"user_id": 0, "item_id": f"i{place}", "timestamp": place}).replace("0,", f"{user},", 1) + "\n"
        for user in ("9007199254740992.0", "9007199254740993.0")
        for place in range(4)
    )
    outcome = prepare(lines, suffix=".jsonl")
    assert [row["user_id"] for row in outcome.records("test")] == ["9007199254740992", "9007199254740993"]
    table = pa.table({"user_id": [2.0**53 - 1] * 4 + [2.0**53] * 2, "item_id": list("abcdef"), "timestamp": range(6)})
    parquet.write_table(table, tmp_path / "floats.parquet")
    outcome = prepare([], f"--input {tmp_path / 'floats.parquet'} --max-rejected 1", output="from_floats")
    assert outcome.stats["input"]["rejected_by_reason"] == {"user id is a float too large to be exact": 2}
    assert [row["user_id"] for row in outcome.records("test")] == [str(2**53 - 1)]
    assert "of integers so large several are one float" in outcome.rejected()[0]["detail"]


def test_both_ways_of_reading_mend_and_count_the_same(tmp_path):
    rows = [
        "u1,7,1",
        "u1 ,7.0,2",
        '"u1",8.0,3',
        '" u2 "," 9.0",4',
        'u"2,7,5',
        "e\u0301,-3.0,6",
        "\u00e9,1.5E7,7",
        ",1,2",
    ]
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(rows * 3) + "\n")
    columns = Columns("user_id", "item_id", "timestamp")
    form = TextFormat("csv", has_header=True)
    found, _, _, tally = assert_both_ways_agree(form, [Range(str(path), "", 0, 0, 0)], columns, time_format="order")
    assert {row[1] for row in found} == {"u1", "u2", 'u"2', "\u00e9"}
    assert tally.text_ids == {"user"}
    assert tally.mended_ids == {
        ("user", "blanks"): 6,
        ("user", "accents"): 3,
        ("item", "blanks"): 3,
        ("item", "fractions"): 15,
    }


# ---- The same table in every format ----

TABLE = {
    "user_id": [1, 1, 1, 2, 2, 2],
    "item_id": [7, 8, 9, 9, 8, 7],
    "timestamp": [978_300_000 + place for place in range(6)],
    "liked": [True, False, True, True, True, False],
}
TYPES = {
    "integers": {},
    "floats": dict.fromkeys(["user_id", "item_id", "timestamp"], pa.float64()),
    "decimals": dict.fromkeys(["user_id", "item_id"], pa.decimal128(21, 2)),
    "narrow": {"user_id": pa.int8(), "item_id": pa.float32(), "liked": pa.int8()},
    "unsigned": dict.fromkeys(["user_id", "item_id", "timestamp"], pa.uint64()),
    "text": dict.fromkeys(["user_id", "item_id", "timestamp"], pa.string()),
    "large text": dict.fromkeys(["user_id", "item_id"], pa.large_string()),
    "bytes": dict.fromkeys(["user_id", "item_id"], pa.binary()),
    "dictionaries": {
        "user_id": pa.dictionary(pa.int32(), pa.string()),
        "item_id": pa.dictionary(pa.int8(), pa.int64()),
    },
    "labels as floats": {"liked": pa.float64()},
    "labels as words": {"liked": "words"},
}


def cast(name, values, type_):
    if type_ == "words":
        return pa.array(["t" if value else "FALSE" for value in values])
    array = pa.array(values)
    if type_ is None:
        return array
    if pa.types.is_dictionary(type_):
        return array.cast(type_.value_type).dictionary_encode().cast(type_)
    return (array.cast(pa.string()) if pa.types.is_binary(type_) else array).cast(type_)


@pytest.mark.parametrize("types", TYPES)
def test_one_table_is_read_alike_from_csv_json_and_parquet(tmp_path, types):
    import pandas as pd

    table = pa.table({name: cast(name, values, TYPES[types].get(name)) for name, values in TABLE.items()})
    parquet.write_table(table, tmp_path / "table.parquet")
    as_text = {name: table[name].cast(pa.string()) for name in table.column_names if types == "bytes"}
    frame = pd.DataFrame({name: as_text.get(name, table[name]).to_pandas() for name in table.column_names})
    frame.to_csv(tmp_path / "table.csv", index=False)
    decimals = {name: float for name in frame if types == "decimals" and frame[name].dtype == object}
    frame.astype(decimals).to_json(tmp_path / "table.jsonl", orient="records", lines=True)
    columns = Columns("user_id", "item_id", "timestamp", None, "liked")
    expected = [
        (str(user), str(item), time, label)
        for user, item, time, label in zip(*TABLE.values(), strict=True)
    ]  # fmt: skip
    for suffix in ("csv", "jsonl", "parquet"):
        form = None if suffix == "parquet" else TextFormat(suffix, has_header=suffix == "csv")
        part = Range(str(tmp_path / f"table.{suffix}"), "", 0, 0, 0, end=None)
        if suffix == "parquet":
            part = Range(str(tmp_path / "table.parquet"), "", 0, 0, 0, 0, 1, 0, 6)
        found, rejected, _, tally = assert_both_ways_agree(form, [part], columns, time_format="s")
        assert not rejected
        assert not tally.text_ids
        rows = [
            (ids.without_fraction(user), ids.without_fraction(item), time, label)
            for _, user, _, item, time, _, _, label in found
        ]
        assert sorted(rows) == sorted(expected), suffix


def test_side_features_are_read_alike_from_csv_json_and_parquet(prepare, tmp_path):
    rows = [
        {"item_id": 1, "price": 1.5, "on_sale": True, "brand": 5.0},
        {"item_id": 2, "price": None, "on_sale": False, "brand": None},
        {"item_id": 3, "price": 2.5, "on_sale": True, "brand": 5.0},
    ]
    (tmp_path / "items.csv").write_text(
        "item_id,price,on_sale,brand\n1.0,1.5,True,5.0\n2.0,NULL,FALSE,\n3.0,2.50,TRUE,5\n"
    )
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    kinds = "--item-feature price:number on_sale:category brand:category"
    found = [
        prepare(events("uv", [1, 3, 2, 3]), f"--items {tmp_path}/items.{suffix} {kinds}", output=f"from_{suffix}")
        for suffix in ("csv", "jsonl", "parquet")
    ]
    assert [str(outcome.item_rows()) for outcome in found] == [str(found[0].item_rows())] * 3
    assert found[0].folder.learned_of_items["on_sale"]["values"] == ["true"]  # of items with training events
    assert [row[0] for row in found[0].item_rows()] == ["1", "3", "2"]
