"""Sequential recommendation on TensorFlow: from raw events to recommendations over REST."""

import importlib

__version__ = "0.1.0"

_SUBMODULES = "config data evaluate export layers losses metrics models optimizers records sampling schema train"


def __getattr__(name: str):
    """Import a submodule when it is first used, so that `import seqrec_tf` stays instant."""
    if name in _SUBMODULES.split():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
