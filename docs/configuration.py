"""Writes `configuration.md`, the configuration reference, from the dataclasses that hold the options.

    python docs/configuration.py

A line of the page is a field: its name, type and default, and what the docstring of a class says of it.
"""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import typing

from seqrec_tf import models
from seqrec_tf.config import DataConfig, TrainConfig
from seqrec_tf.options import described, meaning_of, type_of, value_of

PAGE = pathlib.Path(__file__).with_suffix(".md")

_INTRODUCTION = """\
# Configuration reference

The script `docs/configuration.py` makes this page from the classes that hold the options; do not edit it.

`--set section.key=value` sets an option, such as `--set train.epochs=20 model.dim=64`. In a TOML file of `--config`, a
section is a table. [Training](training.md#options) tells which of them wins.
"""
_MODELS = """\
## Section model

A model has options of its own and those of the groups that it belongs to. Its table also lists options of the groups
that have another default or another meaning in it.
"""


def page() -> str:
    """The text of the page."""
    classes = {name: models.find(name).config_class for name in models.names()}
    groups = {base for cls in classes.values() for base in _bases(cls)} - {*_owners(classes)}
    parts = [
        _INTRODUCTION,
        f"## Section train\n\n{_table(TrainConfig)}",
        f"## Section data\n\n{_table(DataConfig)}",
        _MODELS,
    ]
    for group in sorted(groups, key=lambda group: (len(group.__mro__), group.__name__)):
        extends = _extends(group, classes)
        parts.append(f"### Group {group.__name__}\n\n{_summary(group)}\n\n{extends}{_table(group)}")
    parts += [_section_of_model(name, cls, classes) for name, cls in classes.items()]
    return "\n".join(parts)


def _owners(classes: dict[str, type]) -> dict[type, str]:
    """Which model's options a class is, for classes that are no model's general base."""
    return {cls: name for name, cls in reversed(classes.items()) if _own(cls) and _bases(cls)}


def _section_of_model(name: str, cls: type, classes: dict[str, type]) -> str:
    owner = _owners(classes).get(cls, name)
    if owner != name:
        return f"### {name}\n\nThe options of [{owner}](#{owner}).\n"
    if not _bases(cls):
        return f"### {name}\n\nThe options of [the group {cls.__name__}](#group-{cls.__name__.lower()}).\n"
    return f"### {name}\n\n{_extends(cls, classes)}{_table(cls)}"


def _bases(cls: type) -> list[type]:
    """The dataclasses that a dataclass extends."""
    return [base for base in cls.__mro__[1:] if dataclasses.is_dataclass(base)]


def _extends(cls: type, classes: dict[str, type]) -> str:
    """A sentence that links to the classes that a class extends."""
    bases = _bases(cls)
    direct = [base for base in bases if not any(base in _bases(other) for other in bases)]
    owners = _owners(classes)
    links = [
        f"[{owners[base]}](#{owners[base]})"
        if base in owners
        else f"[the group {base.__name__}](#group-{base.__name__.lower()})"
        for base in direct
    ]
    return f"It also has the options of {' and '.join(links)}.\n\n" if links else ""


def _fields(cls: type) -> list[dataclasses.Field]:
    return list(dataclasses.fields(cls))


def _own(cls: type) -> list[dataclasses.Field]:
    """The fields that no class which `cls` extends has."""
    inherited = {field.name for base in _bases(cls) for field in _fields(base)}
    return [field for field in _fields(cls) if field.name not in inherited]


def _listed(cls: type) -> list[dataclasses.Field]:
    """The fields of which a class says more than those that it extends: it adds, changes or describes them."""
    own = {field.name for field in _own(cls)}
    return [
        field
        for field in _fields(cls)
        if field.name in own or described(cls, field.name) or field.default != _inherited_default(cls, field.name)
    ]


def _inherited_default(cls: type, name: str):
    return next(getattr(base, name) for base in _bases(cls) if hasattr(base, name))


def _table(cls: type) -> str:
    fields = _listed(cls)
    if not fields:
        return ""
    hints = typing.get_type_hints(cls)
    lines = ["| Option | Type | Default | Meaning |", "|---|---|---|---|"]
    for field in fields:
        meaning = meaning_of(cls, field.name).replace("|", "\\|")
        lines.append(f"| `{field.name}` | {type_of(hints[field.name])} | `{value_of(field.default)}` | {meaning} |")
    return "\n".join(lines) + "\n"


def _summary(cls: type) -> str:
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
