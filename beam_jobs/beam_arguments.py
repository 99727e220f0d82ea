"""Which arguments Beam takes: read in its source, as importing it takes longer than an error should."""

from __future__ import annotations

import difflib
import importlib.util
import pathlib
import re
from collections.abc import Iterable, Sequence

from beam_jobs.options import flag


def check_beam_arguments(arguments: Sequence[str], command: str, ours: Iterable[str]) -> None:
    """Raise a ValueError where an argument that the command does not know is no option of Beam's either.

    Args:
        arguments: What the command does not know.
        command: The command of `seqrec` that takes them, for the error.
        ours: Names of its options.
    """
    if not arguments:
        return
    if not arguments[0].startswith("-"):
        raise unknown_option(arguments[0], command, ours)
    known = beam_option_names()
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and name not in known:
            raise unknown_option(argument, command, ours)


def beam_option_names() -> set[str]:
    """Names of Beam's options, such as --runner, and of some that its documentation makes up."""
    spec = importlib.util.find_spec("apache_beam")  # finds it without importing it
    if spec is None or spec.origin is None:
        raise ValueError("Apache Beam is not installed: pip install apache-beam.")
    source = pathlib.Path(spec.origin).parent / "options" / "pipeline_options.py"
    return set(re.findall(r"""["'](--[\w-]+)["']""", source.read_text(encoding="utf-8")))


def unknown_option(argument: str, command: str, ours: Iterable[str]) -> ValueError:
    """The error of an argument that neither the command nor Beam knows; `ours` are the names of its options."""
    near = difflib.get_close_matches(argument.replace("_", "-").split("=")[0], [flag(name) for name in ours], n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return ValueError(f"{argument} is an option neither of seqrec {command} nor of Beam{hint}")
