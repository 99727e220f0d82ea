"""Sequential recommendation on TensorFlow: from raw events to recommendations over REST."""

import importlib

__version__ = "0.1.0"

_SUBMODULES = "config data evaluate export layers learning models records schema train"
_OF_LEARNING = "losses metrics objective optimizers sampling"


def __getattr__(name: str):
    """Import a submodule when it is first used, so that `import seqrec_tf` stays instant."""
    for package, modules in ((__name__, _SUBMODULES), (f"{__name__}.learning", _OF_LEARNING)):
        if name in modules.split():
            return importlib.import_module(f"{package}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
