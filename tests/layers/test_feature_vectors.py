import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.layers import ItemFeatures
from seqrec_tf.layers.feature_vectors import principal_components
from seqrec_tf.schema import Feature

FEATURES = (
    Feature("price", "float32", (), kind="number"),
    Feature("brand", "int64", (), kind="category", num_values=4),
    Feature("tags", "int64", (None,), kind="categories", num_values=5, max_length=3),
    Feature("image", "float32", (2,), kind="vector"),
)
# Of padding and three items; the last has nothing.
VALUES = {
    "price": np.array([np.nan, 1.5, -2.0, np.nan], np.float32),
    "brand": np.array([0, 3, 1, 0], np.int32),
    "tags": np.array([[0, 0, 0], [2, 4, 0], [1, 0, 0], [0, 0, 0]], np.int32),
    "image": np.array([[0, 0], [0.5, -1.0], [0.25, 2.0], [0, 0]], np.float32),
}
IDS = [[2, 1, 2], [0, 3, 1]]


def made(**options):
    layer = ItemFeatures(FEATURES, 3, 4, **options)
    random = np.random.default_rng(0)
    for weight in layer.trainable_variables:
        weight.assign(random.normal(size=weight.shape))
    layer.adapt(VALUES, [5, 1, 0])
    return layer


def slow_vector(layer, number, item):
    """The vector of one feature of one item."""
    feature, encoder = FEATURES[number], layer.vectors.encoders[number]
    value = VALUES[feature.name][item]
    if feature.kind == "category":
        return encoder.embeddings.numpy()[value]
    if feature.kind == "categories":
        rows = [category for category in value if category] or [0]
        return np.mean(encoder.embeddings.numpy()[rows], axis=0)
    if np.any(np.isnan(value)) or (feature.kind == "vector" and not np.any(value)):
        return layer.vectors.missing[number].numpy()
    kernel, bias = (weight.numpy() for weight in encoder.weights)
    return np.atleast_1d(value) @ kernel + bias


@pytest.mark.parametrize("training", [False, True])
def test_each_feature_of_each_item_is_as_computed_one_by_one(training):
    layer = made()
    vectors = layer(tf.constant(IDS), training=training)
    assert len(vectors) == 4
    for number, of_feature in enumerate(vectors):
        expected = [[slow_vector(layer, number, item) for item in row] for row in IDS]
        np.testing.assert_allclose(of_feature, expected, rtol=1e-3, atol=1e-5)


def test_all_that_is_learned_gets_a_gradient_and_the_tables_do_not():
    layer = made()
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(vectors**2) for vectors in layer(tf.constant(IDS), training=True)])
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert all(np.any(tf.convert_to_tensor(gradient) != 0) for gradient in gradients)
    assert len(layer.trainable_variables) == 3 + 1 + 1 + 3
    assert layer.tables[3].dtype == "float16"


def test_half_precision_gives_its_dtype():
    assert {vectors.dtype for vectors in made(dtype="mixed_bfloat16")(tf.constant(IDS))} == {tf.bfloat16}


def test_an_item_without_training_events_has_no_vector_by_its_id():
    known = made().known_by_id(tf.ones([2, 3, 4]), tf.constant(IDS))
    assert known[..., 0].numpy().tolist() == [[1, 1, 1], [0, 0, 1]]


def test_some_items_are_unknown_by_their_ids_in_training_alone():
    features = [Feature("price", "float32", (), kind="number")]
    layer = ItemFeatures(features, 2000, 4, id_dropout_rate=0.25)
    layer.adapt({"price": np.zeros(2001, np.float32)}, [1] * 1000 + [0] * 1000)
    ids = tf.constant([list(range(2001))] * 2)
    draws = [layer.known_by_id(tf.ones([2, 2001, 4]), ids, training=True).numpy()[..., 0] for _ in range(2)]
    np.testing.assert_array_equal(draws[0][0], draws[0][1])  # an item is known or not, wherever it occurs
    assert np.any(draws[0] != draws[1])
    assert np.mean(draws[0][0, 1:1001]) == pytest.approx(0.75, abs=0.05)
    assert not np.any(draws[0][0, 1001:])
    served = layer.known_by_id(tf.ones([2, 2001, 4]), ids).numpy()[0, :, 0]
    assert served.tolist() == [0.0] + [1.0] * 1000 + [0.0] * 1000


def test_it_comes_back_from_its_config():
    layer = made()
    copy = ItemFeatures.from_config(layer.get_config())
    copy.set_weights(layer.get_weights())
    for ours, theirs in zip(layer(tf.constant(IDS)), copy(tf.constant(IDS)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def wide(**options):
    """A layer for vectors of 20 floats, and these: of padding, 50 items, one of which has none, and a new item."""
    random = np.random.default_rng(1)
    vectors = random.normal(size=[52, 20]).astype(np.float32) * np.linspace(3, 0.1, 20, dtype=np.float32) + 1
    vectors[[0, 7]] = 0
    layer = ItemFeatures([Feature("image", "float32", (20,), kind="vector")], 51, 4, **options)
    layer.adapt({"image": vectors}, [1] * 50 + [0])
    return layer, vectors


def test_principal_components_are_those_of_a_singular_value_decomposition():
    _, vectors = wide()
    is_sample = np.arange(52) % 3 > 0
    mean, basis = principal_components(vectors, is_sample, 4, rounds=100)
    sample = vectors[is_sample]
    np.testing.assert_allclose(mean, sample.mean(axis=0), rtol=1e-4)
    _, sizes, directions = np.linalg.svd(sample - sample.mean(axis=0))
    scale = np.sqrt(len(sample) / np.sum(sizes[:4] ** 2))
    found = basis * np.sign(np.sum(basis * directions[:4].T, axis=0))
    np.testing.assert_allclose(found, directions[:4].T * scale, atol=1e-3)
    components = (sample - mean) @ basis
    assert np.mean(np.sum(components**2, axis=1)) == pytest.approx(1.0, rel=1e-4)


def test_components_of_no_sample_are_finite():
    mean, basis = principal_components(np.zeros([3, 5], np.float32), np.zeros(3, bool), 2)
    assert np.all(np.isfinite(mean))
    assert np.all(np.isfinite(basis))


@pytest.mark.parametrize("use", ["frozen", "trained"])
def test_vectors_by_their_principal_components(use):
    layer, vectors = wide(vectors=use)
    (table,) = layer.tables
    assert (table.shape, table.dtype) == ((52, 4), "float16" if use == "frozen" else "float32")
    mean, basis = principal_components(vectors, np.arange(52) % 51 * vectors[:, 0] != 0, 4)
    np.testing.assert_allclose(table, np.where(vectors != 0, 1, 0)[:, :4] * ((vectors - mean) @ basis), atol=2e-3)
    assert not np.any(table.numpy()[[0, 7]])  # what is missing stays so
    old = table.numpy()
    layer.set_rows({"image": vectors[3:4]}, 51)
    np.testing.assert_array_equal(table.numpy()[:51], old[:51])
    # A product of one row is rounded otherwise than one of 52, on some processors.
    np.testing.assert_allclose(table.numpy()[51], old[3], rtol=1e-6)


def test_only_trained_vectors_change_and_only_the_rows_of_the_batch():
    assert len(wide(vectors="frozen")[0].trainable_variables) == 3
    layer, _ = wide(vectors="trained")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([[3, 7, 3]]), training=True)[0] ** 2)
    gradient = tape.gradient(loss, layer.tables[0].value)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.numpy().tolist() == [3, 7]
    assert np.all(gradient.values[0] != 0)
    assert not np.any(gradient.values[1])


def test_an_unknown_use_of_vectors_is_refused():
    with pytest.raises(ValueError, match=r"model.item_vectors must be one of projected, frozen, trained, got 'frosen'"):
        ItemFeatures(FEATURES, 3, 4, vectors="frosen")
