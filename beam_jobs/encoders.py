"""Encoders as Beam's RunInference takes them."""

from __future__ import annotations

import numpy as np
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.tensorflow_inference import TFModelHandlerTensor

from seqrec_tf.encoders import load_encoder

_BATCH_SIZE = 64


class EncoderHandler(TFModelHandlerTensor):
    """RunInference's TensorFlow handler for encoders: one copy a process, batches as large as pays.

    Args:
        encoder: TF Hub handle or SavedModel folder.
    """

    def __init__(self, encoder: str):
        super().__init__(encoder, inference_fn=_encode_batch, max_batch_size=_BATCH_SIZE)

    def load_model(self):
        """Load it as TF Hub does; Beam's own handler takes Keras models alone."""
        return load_encoder(self._model_uri)


def _encode_batch(model, batch, inference_args, model_id) -> list[PredictionResult]:
    vectors = np.asarray(model(np.array(batch, object if isinstance(batch[0], str) else np.float32)))
    return [PredictionResult(None, vector, model_id) for vector in vectors]
