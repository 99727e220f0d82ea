"""A report's data to one HTML file: markup, style, script, the library of charts and the data, all inside."""

from __future__ import annotations

import html
import json
import math
import pathlib
import re
from typing import Any

from seqrec_tf.writing import write_whole

_HERE = pathlib.Path(__file__).parent


def write_page(data: dict[str, Any], output: pathlib.Path) -> None:
    """Write a page, whole or not at all.

    Args:
        data: What it shows, JSON-serialisable.
        output: The file.
    """
    write_whole(output, page(data))


def page(data: dict[str, Any]) -> str:
    """The text of a page."""
    parts = {
        "title": html.escape(f"{data['title']} · seqrec"),
        "style": _file("page.css"),
        # In a script element the text `</` could end it, and `<!--` begin a comment.
        "data": json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        "charts": _file("echarts.min.js"),
        "script": _file("page.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _file("page.html"))


def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
