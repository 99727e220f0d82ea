"""A file that cannot be read as its format gets the sentence of its cause, with the way out."""

import dataclasses
import gzip
import io
import json
import zipfile

import pyarrow
import pytest
from pyarrow import parquet

from beam_jobs import inputs
from beam_jobs.options import Options

HEADER = "user_id,item_id,timestamp\n"
ROWS = [{"user_id": f"u{k % 3}", "item_id": f"i{k}", "timestamp": 978300000 + k} for k in range(20)]
CSV = HEADER + "".join(",".join(map(str, row.values())) + "\n" for row in ROWS)
ACCENTS = CSV.replace("u1", "Zoë").replace("u2", "Åsa")
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def as_parquet(rows):
    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


def as_excel():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    return stream.getvalue()


CASES = {
    "utf-16 with its mark": ("e.csv", CSV.encode("utf-16"), "begins with the mark of UTF-16", "--encoding utf-16."),
    "utf-16 without": ("e.csv", CSV.encode("utf-16-le"), "seems to be UTF-16-LE", "--encoding utf-16-le."),
    "utf-16, big end first": ("e.csv", CSV.encode("utf-16-be"), "seems to be UTF-16-BE", "--encoding utf-16-be."),
    "utf-32": ("e.csv", CSV.encode("utf-32"), "begins with the mark of UTF-32", "--encoding utf-32."),
    "latin-1": ("e.csv", ACCENTS.encode("latin-1"), "is not utf-8: line 3, 'Zo\\xeb", "--encoding cp1252"),
    "no cp1252 either": ("e.csv", ACCENTS.encode("latin-1").replace(b"\xc5", b"\x81"), "line 3", "--encoding latin-1"),
    "one array": ("e.json", json.dumps(ROWS).encode(), "is one JSON array", "jq -c '.[]' "),
    "one array, as csv": ("e.csv", json.dumps(ROWS, indent=1).encode(), "is one JSON array", "--format jsonl"),
    "an object in lines": ("e.json", json.dumps(ROWS[0], indent=1).encode(), "take several lines", "jq -c . "),
    "json lines as csv": ("e.csv", JSON_LINES.encode(), "holds JSON lines", "--format jsonl."),
    "csv as json lines": (
        "e.jsonl",
        CSV.encode(),
        "are no JSON objects; the first is 'user_id,item_id",
        "--format csv",
    ),
    "carriage returns": ("e.csv", CSV.replace("\n", "\r").encode(), "end with a carriage return", "tr '\\r' '\\n' < "),
    "stray quotes": (
        "e.csv",
        (HEADER + "".join(f'u,"{k}" pipe,{k}\n' for k in range(20))).encode(),
        "line 2: quotes do not match",
        "--no-quotes",
    ),
    "columns inside another": (
        "e.jsonl",
        "".join(json.dumps({"event": row}) + "\n" for row in ROWS).encode(),
        "'item_id' is inside 'event'",
        "write 'event' as such",
    ),
    "a column of objects": (
        "e.jsonl",
        "".join(json.dumps(row | {"item_id": {"sku": 7}}) + "\n" for row in ROWS).encode(),
        """'item_id' holds '{"sku": 7}'""",
        "one",
    ),
    "columns inside one of parquet": (
        "e.parquet",
        as_parquet([{"event": row} for row in ROWS]),
        "'item_id' is inside 'event'",
        "as such first",
    ),
    "lists in parquet": (
        "e.parquet",
        as_parquet([row | {"item_id": [row["item_id"]]} for row in ROWS]),
        "'item_id' is of type list<",
        "as such first",
    ),
    "semicolons": ("e.csv", CSV.replace(",", ";").encode(), "between ';' it has 'user_id',", "--delimiter semicolon."),
    "tabs": ("e.csv", CSV.replace(",", "\t").encode(), "between '\\t' it has 'user_id',", "--delimiter tab."),
    "commas as tabs": ("e.tsv", CSV.encode(), "between ',' it has 'user_id',", "--delimiter comma."),
    "gzip without its name": ("e.csv", gzip.compress(CSV.encode()), "is gzipped", "a name that ends in .gz."),
    "its name without gzip": ("e.csv.gz", CSV.encode(), "is not gzipped", "one without .gz."),
    "utf-16 in gzip": ("e.csv.gz", gzip.compress(CSV.encode("utf-16")), "mark of UTF-16", "--encoding utf-16."),
    "parquet as csv": ("e.csv", as_parquet(ROWS), "is a Parquet file", "--format parquet."),
    "csv as parquet": ("e.parquet", CSV.encode(), "is no Parquet file; it begins with 'user_id", "--format"),
    "zstd": ("e.csv", b"\x28\xb5\x2f\xfd\0\0", "is compressed by zstd", "decompress it"),
    "a page": ("e.csv", b"\n<!DOCTYPE html>\n<html>404</html>\n", "is an HTML page", "Fetch the data itself"),
    "a workbook": ("e.csv", as_excel(), "is an Excel workbook", "save its sheet as CSV UTF-8."),
    "nothing": ("e.csv", b"", "The files are empty", "e.csv holds no record."),
    "a header alone": ("e.csv", HEADER.encode(), "The files are empty", "e.csv holds no record."),
    "no header": ("e.csv", CSV.removeprefix(HEADER).encode(), "its first line is 'u0,i0,978300000'", "by number"),
}


@pytest.mark.parametrize(("name", "content", "what", "cure"), CASES.values(), ids=CASES)
def test_the_usual_causes_are_named_with_the_way_out(tmp_path, name, content, what, cure):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="e\\.") as error:
        inputs.inspect_events(Options(input=(str(tmp_path / name),), output="x"))
    said = str(error.value)
    assert str(tmp_path / name) in said
    assert what in said
    assert cure in said
    assert said.count("\n") == 0


@pytest.mark.parametrize(
    ("content", "options", "what"),
    [
        (CSV, {"encoding": "utf-16"}, "is not utf-16, but UTF-8 perhaps; leave out --encoding"),
        (
            "user_id,item_id,timestamp,note\n" + 'u,i,978300000,"two\nlines"\n' * 9,
            {"multiline": "no"},
            "line 2: a quoted field holds a line break",
        ),
        (CSV.replace(",", ";"), {"user_column": "0", "item_column": "1", "time_column": "2"}, "--delimiter semicolon"),
        (CSV.replace("user_id", "who"), {}, "has no column 'user_id' (--user-column); did you mean 'item_id'?"),
        (CSV.replace("9783", "soon"), {}, "are neither numbers nor ISO 8601"),
        (JSON_LINES, {"format": "jsonl", "user_column": "0"}, "has no column '0' (--user-column)"),
    ],
)
def test_what_the_options_are_to_blame_for_is_said_of_them(tmp_path, content, options, what):
    (tmp_path / "e.csv").write_text(content)
    with pytest.raises(ValueError, match="e\\.csv") as error:
        inputs.inspect_events(dataclasses.replace(Options(input=(str(tmp_path / "e.csv"),), output="x"), **options))
    assert what in str(error.value)


def test_items_files_are_told_by_their_own_options(tmp_path):
    (tmp_path / "items.csv").write_text("item_id;title\na;A\nb;B\n")
    items = dataclasses.replace(Options.items, files=(str(tmp_path / "items.csv"),))
    with pytest.raises(ValueError, match=r"between ';' it has 'item_id', 'title'. Give --items-delimiter semicolon\."):
        inputs.inspect_table(Options(items=items), "item", first_number=0)
    (tmp_path / "items.csv").write_bytes("item_id,title\na,Zoë\nb,Åsa\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"give --items-encoding cp1252"):
        inputs.inspect_table(Options(items=items), "item", first_number=0)
