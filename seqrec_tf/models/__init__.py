"""The models, one file each; `--model foo_bar` is the module `seqrec_tf.models.foo_bar`.

`from seqrec_tf.models import SASRec` imports the module that defines it. A new model is a new file, listed nowhere.
"""

from __future__ import annotations

import importlib
import inspect

from seqrec_tf.models.base import SequenceModel
from seqrec_tf.options import model_names, module_of


def names() -> list[str]:
    """Names of the models in this package, as given to `--model`."""
    return model_names()


def find(name: str) -> type[SequenceModel]:
    """The model class of a module of this package or, for a dotted path, of a module outside.

    Raises:
        ValueError: There is no such module, or it does not define exactly one public `SequenceModel`.
    """
    path = module_of(name)
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise ValueError(f"--model {name}: there is no module {error.name}.") from error
    classes = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, SequenceModel)
        and cls.__module__ == path
        and not cls.__name__.startswith("_")
    ]
    if len(classes) != 1:
        raise ValueError(f"--model {name}: {path} must define one public SequenceModel, found {len(classes)}.")
    return classes[0]


def __getattr__(name: str):
    """Find a model class by its name, such as `SASRec`."""
    for module in names():
        if module.replace("_", "") == name.lower().replace("_", ""):
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
