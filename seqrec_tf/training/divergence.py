"""What to say where the loss of a step is NaN or infinite: which step, on which sequences, and what helps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from seqrec_tf.models.base_keras import LOSS_IS_FINITE

# Sequences of a batch that are named.
_NAMED = 5


class LossNotFiniteError(RuntimeError):
    """The loss of a step on several replicas is NaN or infinite."""


@contextlib.contextmanager
def explained(model, keeper, sequences_of: Callable[[int, int], Sequence[str]]):
    """Say of a loss that is not finite which step it was.

    On one replica the step has ended before it changed a weight, so the weights tell whose fault it is: where they are
    finite, it is this batch's with them; else a gradient of the step before was not. Several replicas have taken the
    step when they learn of it.

    Args:
        model: What is trained.
        keeper: The `callbacks.RunKeeper`.
        sequences_of: Names of the sequences of a batch, by its epoch and its step there, both from 0.

    Raises:
        RuntimeError: The loss was not finite.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if LOSS_IS_FINITE not in error.message:
            raise
        value = "NaN" if "NaN" in error.message.rpartition(LOSS_IS_FINITE)[2] else "infinite"
        step = int(model.loss_tracker_state()[1])  # it counts the steps before
        largest = max(float(np.max(np.abs(variable.numpy()), initial=0.0)) for variable in model.trainable_variables)
    except LossNotFiniteError as error:
        value, step, largest = str(error), keeper.steps_done - 1, None
    else:
        return
    epoch = len(keeper.epochs)
    words = f"The loss became {value} at step {step + 1:,} of epoch {epoch + 1}"
    if largest is None or np.isfinite(largest):
        words += f", of {_listed(sequences_of(epoch, step))}"
        words += "" if largest is None else f"; before it, the largest weight was {largest:.3g}"
    elif step:
        words += f", as the step before had a gradient that was not finite, of {_listed(sequences_of(epoch, step - 1))}"
    kept = f"the same command goes on after epoch {epoch}" if epoch else "no epoch is done, so nothing is kept"
    raise RuntimeError(
        f"{words}. Set a smaller train.learning_rate or a train.clip_norm such as 1.0; {kept}."
    ) from None


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    more = f" and {rest:,} more" if rest > 0 else ""
    return f"the sequence{'s' if len(names) > 1 else ''} {', '.join(names[:_NAMED])}{more}"
