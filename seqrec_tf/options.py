"""What can be set, and what it means: the options of a model, read without Keras, and of any configuration class.

A model's file imports Keras, which takes seconds; a mistyped option, or `seqrec train --help --model NAME`, should not
wait for it. So `config_class` makes the configuration class of those statements of the file that it is made of.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import pathlib
import re
import sys
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any

from seqrec_tf.config import ModelConfig, check_choice

MODELS = "seqrec_tf.models"

# Modules that are imported as a whole; of those that are not here or in the standard library, statements are picked.
_LIGHT = ("seqrec_tf.config", "seqrec_tf.schema", "seqrec_tf.padding", "seqrec_tf.features")
_TYPES = {int: "integer", float: "number", bool: "true or false", str: "text", types.NoneType: "none"}


def model_names() -> list[str]:
    """Names of the models in this package, as given to `--model`."""
    files = (pathlib.Path(__file__).parent / "models").glob("[!_]*.py")
    return sorted(file.stem for file in files if not file.stem.startswith("base"))


def module_of(model: str) -> str:
    """The module that a `--model` names: a model of this package, or a dotted path outside.

    Raises:
        ValueError: There is no model of this name.
    """
    if "." in model:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # a module beside the user, as `python -m` would find it
        return model
    check_choice("--model", model, model_names())
    return f"{MODELS}.{model}"


def config_class(model: str) -> type[ModelConfig] | None:
    """The options of a model, like those that `models.find` gives, but without Keras.

    Args:
        model: As given to `--model`.

    Returns:
        A class with the same fields, defaults and checks; None where it takes Keras to make it, which is no error.

    Raises:
        ValueError: There is no such model.
    """
    picked = _Picked()
    module = module_of(model)
    if picked.file_of(module) is None:
        raise ValueError(f"--model {model}: there is no module {module}.")
    try:
        classes = [
            name
            for name, statement in picked.statements(module).items()
            if isinstance(statement, ast.ClassDef) and not name.startswith("_")
        ]
        (place,) = {place for name in classes if (place := picked.config_of(module, name))}
        return picked.value(*place)
    except Exception:  # whatever the file does that cannot be picked apart: to import it will tell
        return None


class _NotPickedError(Exception):
    """A name that only a whole module gives, such as Keras."""


class _Picked:
    """Statements of modules that are run without the rest of their module, each once."""

    def __init__(self):
        self._namespaces: dict[str, dict[str, Any]] = {}
        self._statements: dict[str, dict[str, ast.stmt]] = {}
        self._begun: set[tuple[str, str]] = set()

    def file_of(self, module: str) -> str | None:
        """The file of a module, found without importing it or its packages; None where there is none."""
        top, *rest = module.split(".")
        spec = importlib.util.find_spec(top)
        for depth, _ in enumerate(rest, start=2):
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = ".".join(module.split(".")[:depth])
            spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
        return spec.origin if spec else None

    def statements(self, module: str) -> dict[str, ast.stmt]:
        """The statements at the top of a module, by the names that they bind."""
        if module not in self._statements:
            file = self.file_of(module)
            if file is None or not file.endswith(".py"):
                raise _NotPickedError(module)
            bound: dict[str, ast.stmt] = {}
            for statement in ast.parse(pathlib.Path(file).read_text(encoding="utf-8")).body:
                for name in _names_bound_by(statement):
                    bound[name] = statement
            self._statements[module] = bound
        return self._statements[module]

    def config_of(self, module: str, name: str) -> tuple[str, str] | None:
        """Where the `config_class` of a model's class is: (module, name); None where the class is no model."""
        statement = self.statements(module).get(name)
        if isinstance(statement, ast.ImportFrom):
            imported = statement.module or ""
            is_ours = imported.partition(".")[0] == module.partition(".")[0] or imported.startswith("seqrec_tf.")
            return self.config_of(imported, name) if is_ours else None
        if not isinstance(statement, ast.ClassDef):
            return None
        for line in statement.body:
            value = getattr(line, "value", None)
            if "config_class" in _names_bound_by(line) and isinstance(value, ast.Name):
                return module, value.id
        bases = [base.id for base in statement.bases if isinstance(base, ast.Name)]
        return next(filter(None, (self.config_of(module, base) for base in bases)), None)

    def value(self, module: str, name: str) -> Any:
        """What a name of a module is."""
        if module.partition(".")[0] in sys.stdlib_module_names or module in _LIGHT:
            return getattr(importlib.import_module(module), name)
        space = self._namespaces.setdefault(module, {"__name__": __name__})
        if name in space:
            return space[name]
        statement = self.statements(module).get(name)
        if statement is None:
            return self._module(f"{module}.{name}")  # from package import module
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            space[name] = self._imported(statement, name)
            return space[name]
        if (module, name) in self._begun:
            raise _NotPickedError(f"{module}.{name}")  # two that call each other, or what could not be made before
        self._begun.add((module, name))
        for needed in {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} - {name}:
            if needed in self.statements(module):
                # Good as long as nobody asks for it now: the body of a function may not be called.
                with contextlib.suppress(_NotPickedError):
                    self.value(module, needed)
        code = compile(ast.Module([_FUTURE, statement], type_ignores=[]), f"<{module}>", "exec")
        try:
            exec(code, space)
        except NameError as error:
            raise _NotPickedError(f"{module}.{name}") from error
        return space[name]

    def _imported(self, statement: ast.Import | ast.ImportFrom, name: str) -> Any:
        alias = next(alias for alias in statement.names if (alias.asname or alias.name) == name)
        if isinstance(statement, ast.ImportFrom):
            return self.value(statement.module or "", alias.name)
        return self._module(alias.name)

    def _module(self, module: str) -> Any:
        if module.partition(".")[0] in sys.stdlib_module_names or module in _LIGHT:
            return importlib.import_module(module)
        if not module.startswith("seqrec_tf."):
            raise _NotPickedError(module)
        return _Attributes(self, module)


class _Attributes:
    """Stands for a module of this package of which single names are asked for."""

    def __init__(self, picked: _Picked, module: str):
        self._picked, self._module = picked, module

    def __getattr__(self, name: str) -> Any:
        return self._picked.value(self._module, name)


_FUTURE = ast.parse("from __future__ import annotations").body[0]


def _names_bound_by(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in statement.names]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [
        node.id for target in targets if target is not None for node in ast.walk(target) if isinstance(node, ast.Name)
    ]


def value_of(value: Any) -> str:
    """A default as TOML has it."""
    return "none" if value is None else json.dumps(value)


def type_of(hint: Any) -> str:
    """The type of an option, in words."""
    if typing.get_origin(hint) is tuple:
        return f"list of {type_of(typing.get_args(hint)[0])}s"
    if isinstance(hint, types.UnionType):
        return " or ".join(map(type_of, typing.get_args(hint)))
    return _TYPES[hint]


def described(cls: type, name: str) -> str:
    """What the docstring of a class itself says of a field."""
    attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
    found = re.search(rf"^    {name}: (.+(?:\n     +.+)*)", attributes, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def meaning_of(cls: type, name: str) -> str:
    """What the docstring of a class, or of one that it extends, says of a field."""
    texts = [described(owner, name) for owner in cls.__mro__]
    if not any(texts):
        raise ValueError(f"No docstring says what {cls.__name__}.{name} means. Describe it under `Attributes:`.")
    return next(filter(None, texts))


def help_of(section: str, cls: type, defaults: Mapping[str, Any] | None = None) -> str:
    """The options of a section for a terminal: each with its default and its meaning.

    Args:
        section: Its name.
        cls: The class of its options.
        defaults: Those that are others than the class says.
    """
    lines = [f"[{section}]"]
    for field in dataclasses.fields(cls):
        lines.append(f"  {field.name} = {value_of((defaults or {}).get(field.name, field.default))}")
        lines += textwrap.wrap(meaning_of(cls, field.name), 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)
