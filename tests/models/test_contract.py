"""What every model owes to training, evaluation and export, checked on each module of `seqrec_tf.models`.

A new model is covered by being there. The letters are those of `seqrec_tf.models.base`.
"""

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import models
from seqrec_tf.config import ItemFeaturesConfig, ModelConfig, computing_in
from seqrec_tf.learning import ranking
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.models.base_batches import newest_position
from seqrec_tf.models.base_memory import training_bytes
from seqrec_tf.schema import (
    EXCLUDED,
    ITEM_IDS,
    ITEM_IDS_FEATURE,
    LABELS,
    LABELS_FEATURE,
    SEEN,
    TARGET,
    TARGET_LABEL,
    TARGET_TIME,
    TIMESTAMPS,
    TIMESTAMPS_FEATURE,
    USER_ID,
    USER_ID_FEATURE,
    Feature,
    Schema,
)

# All that a model may read.
SCHEMA = Schema(
    num_items=12,
    features=(ITEM_IDS_FEATURE, TIMESTAMPS_FEATURE, LABELS_FEATURE, USER_ID_FEATURE),
    max_len=8,
    time_unit="seconds",
    num_users=12,
    item_features=(
        Feature("price", "float32", (), kind="number"),
        Feature("brand", "int64", (), kind="category", num_values=4),
        Feature("tags", "int64", (None,), kind="categories", num_values=5, max_length=2),
        Feature("image", "float32", (3,), kind="vector"),
    ),
    user_features=(
        Feature("age", "float32", (), kind="number"),
        Feature("country", "int64", (), kind="category", num_values=4),
        Feature("hobbies", "int64", (None,), kind="categories", num_values=5, max_length=2),
    ),
)
# Of the padding row and of 12 items, some without.
ITEM_VALUES = {
    "price": np.array([np.nan, 0.3, -1.2, np.nan, *np.linspace(-1, 1, 9)], np.float32),
    "brand": np.array([0, 2, 3, 0, 1, 2, 2, 3, 3, 1, 2, 0, 3], np.int32),
    "tags": np.array([[0, 0], [2, 3], [4, 0], [0, 0], *[[2 + k % 3, k % 2] for k in range(9)]], np.int32),
    "image": np.sin(np.arange(39)).reshape(13, 3).astype(np.float32),
}
# Options that make a model small, and let it read all that it can, where it has them.
SMALL = {
    **{"max_len": 8, "dim": 8, "num_blocks": 1, "dropout_rate": 0.0, "hidden_dims": (16, 8), "age_dim": 8, "units": 8},
    **{"item_features": ("*",), "user_features": ("*",)},
}
HISTORIES = [[3, 1, 4, 12, 5], [9, 2, 6], [7]]

every_model = pytest.mark.parametrize("cls", [models.find(name) for name in models.names()], ids=models.names())


def small_config(cls, **options):
    names = {field.name for field in dataclasses.fields(cls.config_class)}
    names -= {"dim"} if "units" in names else set()  # tied embeddings are as wide as their units
    return cls.config_class(**{key: value for key, value in {**SMALL, **options}.items() if key in names})


def make_model(cls, **options):
    model = cls(small_config(cls, **options), SCHEMA)
    if USER_ID in model.reads:
        model.users.adapt(np.arange(12))  # the users of the tests, whose fingerprint is their row
    if model.item_features is not None:
        model.item_features.adapt(ITEM_VALUES, [1] * 12)
    return model


def randomise(model, seed=1):
    """Give every weight, also biases, scales and counts, a value of its own, so that no part of the model can hide."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype.startswith(("float", "bfloat")):
            weight.assign(random.uniform(0.1, 0.6, size=weight.shape) * random.choice([-1, 1], size=weight.shape))
    return model


@pytest.fixture(scope="module")
def made():
    """A function that gives a small model with random weights, which a test must not change."""
    made = {}

    def get(cls):
        if cls not in made:
            made[cls] = randomise(make_model(cls))
        return made[cls]

    return get


def complete(model, item_ids):
    """Inputs of a model for these ids, int [B, L]: users by row, and times that follow from the items."""
    item_ids = tf.cast(item_ids, tf.int32)
    rows = tf.range(tf.shape(item_ids)[0], dtype=tf.int64)
    times = 1000 * tf.cast(item_ids, tf.int64)
    everything = {USER_ID: rows, TIMESTAMPS: times, **features_of_users(rows)}
    inputs = {ITEM_IDS: item_ids, **{name: everything[name] for name in model.reads}}
    return inputs | ({TARGET_TIME: 100_000 + rows} if TIMESTAMPS in model.reads else {})


def features_of_users(rows):
    """Features of the users by row; every third lacks them."""
    is_there = rows % 3 < 2
    age = tf.where(is_there, tf.cast(rows, tf.float32) / 2, np.nan)
    country = tf.where(is_there, rows % 3 + 1, 0)
    return {"age": age, "country": country, "hobbies": tf.stack([country, tf.zeros_like(country)], axis=1)}


def right_padded(model, histories=HISTORIES):
    length = max(map(len, histories))
    return complete(model, [history + [0] * (length - len(history)) for history in histories])


def all_scores(model, inputs):
    """Scores of all items for each history: float32 [B, num_items]."""
    return model.score_block(model.query(inputs), 1, model.num_items + 1).numpy()


def training_sequences(items):
    """What `make_batch` takes, of ragged ids [B, None]: every second event is liked."""
    users = tf.range(tf.cast(items.nrows(), tf.int64), dtype=tf.int64)
    of_events = {ITEM_IDS: items, SEEN: items, TIMESTAMPS: 1000 * items, LABELS: items % 2}
    return of_events | {USER_ID: users, **features_of_users(users)}


def training_batch(model, sequences):
    ragged = tf.ragged.constant(sequences, dtype=tf.int64, ragged_rank=1)
    x, y, _ = keras.utils.unpack_x_y_sample_weight(model.make_batch(training_sequences(ragged), [0, 0]))
    return x, y


def loss_and_gradients(model, sequences):
    x, y = training_batch(model, sequences)
    with tf.GradientTape() as tape:
        loss = model.mean_loss(model.target_losses(x, y, model(x, training=True)))
    gradients = tape.gradient(loss, model.trainable_variables)
    return loss, [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]


def predicts_the_next_item(cls):
    """Whether row i of `call` is trained to predict the item after position i, as by default."""
    return cls.make_batch is SequenceModel.make_batch


def test_every_module_is_found_by_its_class_too():
    for name in models.names():
        cls = models.find(name)
        assert getattr(models, cls.__name__) is cls
        assert cls.__name__.lower() == name.replace("_", "")


@every_model
def test_it_builds_from_a_schema_alone(cls):
    model = cls(schema=SCHEMA)
    assert model.built
    assert model.config == cls.config_class()


@every_model
def test_the_options_are_a_frozen_dataclass_of_its_own_kind(cls):
    assert issubclass(cls.config_class, ModelConfig)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls.config_class().max_len = 3


@every_model
def test_every_option_is_in_the_attributes_of_its_docstring(cls):
    documented, options = set(), {field.name for field in dataclasses.fields(cls.config_class)}
    for parent in cls.config_class.__mro__:
        attributes = (parent.__doc__ or "").partition("Attributes:")[2]
        documented |= set(re.findall(r"^\s+(\w+): \S", attributes, re.MULTILINE))
    assert options - documented == set()


@every_model
def test_the_first_line_of_the_module_names_the_model(cls):
    import inspect

    module = inspect.getmodule(cls)
    assert module.__doc__.startswith(cls.__name__), f"{module.__name__} should say what it is, with its paper"


@every_model
def test_scores_are_float32_for_each_history_and_item(cls, made):
    model = made(cls)
    query = model.query(right_padded(model))
    assert all(part.shape[0] == len(HISTORIES) for part in tf.nest.flatten(query))
    block, candidates = model.score_block(query, 1, 13), model.score_candidates(query, tf.constant([[1, 2]] * 3))
    assert (block.dtype, block.shape) == (tf.float32, [3, 12])
    assert (candidates.dtype, candidates.shape) == (tf.float32, [3, 2])


@every_model
def test_scores_tell_items_apart(cls, made):
    scores = all_scores(made(cls), right_padded(made(cls)))
    assert np.all(np.isfinite(scores))
    assert all(len(np.unique(row)) > 6 for row in scores)


@every_model
def test_a_block_of_scores_is_part_of_all_of_them(cls, made):
    query = made(cls).query(right_padded(made(cls)))
    whole = made(cls).score_block(query, 1, 13).numpy()
    for start, stop in ((1, 5), (5, 13), (12, 13)):
        np.testing.assert_allclose(made(cls).score_block(query, start, stop), whole[:, start - 1 : stop - 1], atol=1e-5)


@every_model
def test_candidates_score_as_among_all_items(cls, made):
    query = made(cls).query(right_padded(made(cls)))
    candidates = np.array([[1, 12, 3], [5, 5, 2], [7, 8, 12]], np.int32)
    expected = np.take_along_axis(made(cls).score_block(query, 1, 13).numpy(), candidates - 1, axis=1)
    np.testing.assert_allclose(made(cls).score_candidates(query, tf.constant(candidates)), expected, atol=1e-5)


@every_model
@pytest.mark.parametrize("amount", [1, 3, 20])
@pytest.mark.parametrize("side", ["left", "right", "both", "between"])
def test_padding_changes_no_score(cls, made, side, amount):
    expected = all_scores(made(cls), right_padded(made(cls)))
    zeros = [0] * amount
    for row, history in enumerate(HISTORIES):
        padded = {
            "left": zeros + history,
            "right": history + zeros,
            "both": zeros + history + zeros,
            "between": [item for event in history for item in (event, *zeros)][:-amount],
        }[side]
        # The same history in the rows before, so that the user of this row is who it was.
        scores = all_scores(made(cls), complete(made(cls), [padded] * (row + 1)))
        np.testing.assert_allclose(scores[row], expected[row], atol=1e-5)


@every_model
def test_histories_padded_on_different_sides_share_a_batch(cls, made):
    item_ids = tf.constant([[3, 1, 4, 12, 5], [0, 0, 9, 2, 6], [0, 7, 0, 0, 0]])
    np.testing.assert_allclose(
        all_scores(made(cls), complete(made(cls), item_ids)), all_scores(made(cls), right_padded(made(cls))), atol=1e-5
    )


@every_model
def test_a_row_s_scores_do_not_depend_on_the_other_rows(cls, made):
    together = all_scores(made(cls), right_padded(made(cls)))
    others = [[8, 8, 10], *HISTORIES[1:]]
    np.testing.assert_allclose(all_scores(made(cls), right_padded(made(cls), others))[1:], together[1:], atol=1e-5)


@every_model
def test_a_history_of_padding_alone_leaves_scores_finite(cls, made):
    item_ids = tf.constant([[3, 1, 4, 12, 5], [0, 0, 0, 0, 0]])
    scores = all_scores(made(cls), complete(made(cls), item_ids))
    assert np.all(np.isfinite(scores))
    np.testing.assert_allclose(scores[0], all_scores(made(cls), right_padded(made(cls)))[0], atol=1e-5)


@pytest.mark.parametrize("cls", [models.SASRec, models.NOVA, models.Caser])
def test_a_query_of_its_own_is_the_state_of_the_newest_event(cls, made):
    """As `SequenceModel.query` says; these compute less for it."""
    assert cls.query is not SequenceModel.query
    inputs = right_padded(made(cls))
    hidden = made(cls)(inputs)
    expected = tf.gather(hidden, newest_position(inputs[ITEM_IDS]), axis=1, batch_dims=1)
    np.testing.assert_allclose(made(cls).query(inputs), made(cls).project(expected), atol=1e-5)


@every_model
def test_a_later_event_changes_no_earlier_state(cls, made):
    if not predicts_the_next_item(cls):
        pytest.skip("its training batches are its own, so rows of call mean something else")
    before = made(cls)(complete(made(cls), [[3, 1, 4, 12, 5]])).numpy()
    after = made(cls)(complete(made(cls), [[3, 1, 4, 7, 8]])).numpy()
    np.testing.assert_allclose(after[:, :3], before[:, :3], atol=1e-5)


@every_model
def test_dropout_of_item_ids_acts_in_training_alone(cls):
    if not issubclass(cls.config_class, ItemFeaturesConfig):
        pytest.skip("it reads no side features of items")
    model = randomise(make_model(cls, item_features=("*",), item_id_dropout_rate=0.5))
    inputs = complete(model, [[3, 1, 4, 12, 5]])
    served = model(inputs).numpy()
    np.testing.assert_array_equal(model(inputs), served)
    assert any(np.any(model(inputs, training=True) != served) for _ in range(5))


@every_model
def test_the_loss_and_its_gradients_are_finite(cls):
    model = randomise(make_model(cls, dropout_rate=0.3))
    if not model.trainable_variables:
        pytest.skip("it has no trainable weights")
    loss, gradients = loss_and_gradients(model, HISTORIES)
    assert loss.shape == []
    assert float(loss) > 0
    assert len(gradients) > 0
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    assert any(np.any(gradient != 0) for gradient in gradients)


@every_model
def test_sequences_too_short_to_learn_from_leave_the_loss_finite(cls):
    model = randomise(make_model(cls))
    if not model.trainable_variables:
        pytest.skip("it has no trainable weights")
    for sequences in ([[3, 1, 4], [5], []], [[5], []]):
        loss, gradients = loss_and_gradients(model, sequences)
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@every_model
def test_the_loss_falls_on_sequences_that_can_be_learned(cls):
    keras.utils.set_random_seed(1)
    model = make_model(cls, dim=16)
    if not model.trainable_variables:
        pytest.skip("it has no trainable weights")
    # Each item is followed by the next one, in a circle.
    sequences = [[(first + step) % 12 + 1 for step in range(8)] for first in range(12)]
    batches = tf.data.Dataset.from_tensors(training_batch(model, sequences)).repeat(20)
    model.compile(keras.optimizers.Adam(0.02))
    losses = model.fit(batches, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert losses[2] < 0.8 * losses[0]


@every_model
def test_a_step_in_parts_does_what_a_step_on_the_whole_batch_does(cls, monkeypatch):
    # Without negatives that each part would draw for itself, and tables of features that it would make.
    options = {"loss": "softmax"} if cls is not models.NeuMF else {}
    options |= {"score_with_features": False} if cls is models.NOVA else {"item_features": ()}
    if not make_model(cls, **options).trainable_variables:
        pytest.skip("it has no trainable weights")
    weights = []
    for parts in (1, 4):  # more than there are rows
        monkeypatch.setattr("seqrec_tf.models.base.parts_for_cores", lambda parts=parts: parts)
        keras.utils.set_random_seed(1)
        model = randomise(make_model(cls, **options))
        number = 0

        def counted(*args, losses=model.target_losses, **kwargs):
            nonlocal number
            number += 1
            return losses(*args, **kwargs)

        monkeypatch.setattr(model, "target_losses", counted)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        model.train_on_batch(*training_batch(model, HISTORIES))
        overrides = cls.num_parts.__func__ is not SequenceModel.num_parts.__func__
        assert number == (1 if overrides else parts)
        weights.append(model.get_weights())
    for expected, value in zip(*weights, strict=True):
        if cls is not models.NeuMF:  # whose losses all draw
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
        assert np.all(np.isfinite(value))


@pytest.mark.parametrize("cls", [models.SASRec, models.NeuMF, models.BST])
def test_a_batch_may_have_fewer_rows_than_parts(cls, monkeypatch):
    monkeypatch.setattr("seqrec_tf.models.base.parts_for_cores", lambda: 2)
    model = make_model(cls)
    model.compile(keras.optimizers.SGD(0.1))
    x, y = training_batch(model, HISTORIES[:1])
    assert np.isfinite(model.train_on_batch(x, y))
    inputs = right_padded(model, HISTORIES[:1])
    labels = {TARGET: tf.constant([2]), EXCLUDED: tf.zeros([1, 0], tf.int32), TARGET_LABEL: tf.constant([1])}
    figures = model.evaluate(tf.data.Dataset.from_tensors((inputs, labels)), verbose=0, return_dict=True)
    assert np.isfinite(figures[model.monitor])


@every_model
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
@pytest.mark.usefixtures("policy")
def test_mixed_precision_gives_finite_losses_and_float32_scores(cls):
    model = make_model(cls)
    scores = model.score_block(model.query(right_padded(model)), 1, 13)
    assert scores.dtype == tf.float32
    assert np.all(np.isfinite(scores))
    if model.trainable_variables:
        loss, gradients = loss_and_gradients(model, [*HISTORIES, []])
        assert loss.dtype == tf.float32
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(tf.cast(gradient, tf.float32))) for gradient in gradients)


@every_model
def test_mixed_precision_scores_are_near_those_of_full_precision(cls, made):
    with computing_in("mixed_bfloat16"):
        model = randomise(make_model(cls))
    expected = all_scores(made(cls), right_padded(made(cls)))
    scores = all_scores(model, right_padded(model))
    assert np.abs(scores - expected).max() < 0.1 * np.abs(expected).max()
    if model.trainable_variables:  # rounded to 16 bits, many of a large catalogue's would be the same
        assert np.mean(scores == tf.cast(tf.cast(scores, tf.bfloat16), tf.float32)) < 0.5


@every_model
def test_a_config_gives_the_model_back(cls, made):
    model = cls.from_config(made(cls).get_config())
    assert model.config == made(cls).config
    assert model.schema == made(cls).schema
    assert [weight.shape for weight in model.weights] == [weight.shape for weight in made(cls).weights]


@every_model
def test_a_keras_file_gives_the_model_back(cls, made, tmp_path):
    made(cls).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert type(model) is cls
    assert model.get_config() == made(cls).get_config()
    np.testing.assert_array_equal(
        all_scores(model, right_padded(model)), all_scores(made(cls), right_padded(made(cls)))
    )


@every_model
def test_a_model_computes_by_its_own_policy(cls, tmp_path):
    """Not by that of the process which loads it."""
    with computing_in("mixed_bfloat16"):
        model = make_model(cls)
    assert model.compute_dtype == "bfloat16"
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    policies = [{layer.compute_dtype for layer in of._flatten_layers()} for of in (model, loaded)]
    assert policies[0] == policies[1]
    inputs = right_padded(model)
    np.testing.assert_array_equal(all_scores(loaded, inputs), all_scores(model, inputs))


@every_model
def test_a_saved_model_recommends_as_the_model_does(cls, made, tmp_path):
    model = made(cls)

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.kept = [variable.value for variable in model.variables]

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
        def recommend(self, item_ids):
            return ranking.recommend(model, model.query(complete(model, item_ids)), item_ids, k=4)

    module = Module()
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for histories in (HISTORIES, [[5, 6]]):
        item_ids = right_padded(model, histories)[ITEM_IDS]
        ids, scores = loaded.recommend(item_ids)
        expected_ids, expected_scores = ranking.recommend(model, model.query(complete(model, item_ids)), item_ids, k=4)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


@every_model
def test_training_batches_are_made_in_a_graph(cls, made):
    """`data.load` maps `make_batch` over batches of any number and length of sequences."""
    spec = tf.RaggedTensorSpec([None, None], tf.int64, ragged_rank=1)
    model = made(cls)
    make = tf.function(lambda ragged: model.make_batch(training_sequences(ragged), [0, 0]), input_signature=[spec])
    for sequences in (HISTORIES, [[5], [6]]):
        ragged = tf.ragged.constant(sequences, dtype=tf.int64, ragged_rank=1)
        parts, expected = make(ragged), model.make_batch(training_sequences(ragged), [0, 0])
        tf.nest.map_structure(np.testing.assert_array_equal, parts, expected)
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(parts)
        assert inputs[ITEM_IDS].dtype == tf.int32


@every_model
def test_the_memory_estimate_grows_with_the_catalogue(cls):
    config = small_config(cls)
    small, large = (
        training_bytes(cls, config, Schema(num_items=num_items), batch_size=4) for num_items in (1_000, 1_000_000)
    )
    assert 0 < small < large
