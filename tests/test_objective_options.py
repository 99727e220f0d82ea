"""Options of the objective: what cannot be is refused, and every one is documented."""

import dataclasses
import re
import warnings

import pytest
from small_objective import NUM_ITEMS

from seqrec_tf.learning.objective import LOSSES, NEGATIVES, ObjectiveConfig
from seqrec_tf.models import GRU4Rec, SASRec
from seqrec_tf.schema import Schema


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "brp"}, r"model\.loss must be one of bce, .*got 'brp'\. Did you mean 'bpr'\?"),
        ({"negatives": "inbatch"}, r"model\.negatives must be one of .*got 'inbatch'\. Did you mean 'in-batch'\?"),
        ({"num_negatives": 0}, r"model\.num_negatives must be at least 1, got 0\."),
        ({"num_negatives": -1, "negatives": "in-batch"}, r"model\.num_negatives must be at least 0, got -1\."),
        ({"temperature": 0.0}, r"model\.temperature must be at least 1e-06, got 0\.0\."),
        ({"popularity_exponent": -1.0}, r"model\.popularity_exponent must be at least 0, got -1\.0\."),
        ({"elu": -1.0}, r"model\.elu must be at least 0, got -1\.0\."),
        ({"elu": 0.5, "loss": "softmax"}, r"model\.elu does nothing with model\.loss=softmax"),
        ({"temperature": 0.5}, r"model\.temperature does nothing with model\.loss=bce"),
        ({"regularization": 0.5}, r"model\.regularization does nothing with model\.loss=bce"),
        ({"gbce_calibration": 0.5}, r"model\.gbce_calibration does nothing with model\.loss=bce"),
        ({"num_negatives": 5, "loss": "softmax"}, r"model\.num_negatives does nothing with model\.loss=softmax"),
        ({"share_negatives": True, "loss": "softmax"}, r"model\.share_negatives does nothing with model\.loss=softmax"),
        ({"popularity_exponent": 0.5}, r"popularity_exponent does nothing with .* model\.negatives=uniform"),
        ({"regularization": -1.0}, r"model\.regularization must be at least 0, got -1\.0\."),
        ({"gbce_calibration": 1.5}, r"model\.gbce_calibration must be in \[0, 1\], got 1\.5\."),
        ({"loss": "gbce", "negatives": "popular"}, r'model\.loss="gbce" is calibrated for model\.negatives="uniform"'),
        ({"loss": "gbce", "negatives": "in-batch"}, r'model\.loss="gbce" is calibrated for'),
        ({"loss": "gbce", "share_negatives": True}, r'model\.loss="gbce" is calibrated for .*not shared'),
        ({"max_len": 0}, r"model\.max_len must be at least 1, got 0\."),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**options)


@pytest.mark.parametrize("cls", [SASRec, GRU4Rec])
def test_a_model_with_an_objective_is_built_without_a_warning(cls):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        cls(schema=Schema(NUM_ITEMS))


def test_every_option_and_every_loss_is_documented():
    attributes = ObjectiveConfig.__doc__.partition("Attributes:")[2]
    documented = re.findall(r"^\s+(\w+): \S", attributes, re.MULTILINE)
    assert sorted(documented) == sorted(field.name for field in dataclasses.fields(ObjectiveConfig))
    assert all(f'"{name}"' in attributes for name in (*LOSSES, *NEGATIVES))
