import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.layers import UserEmbedding
from seqrec_tf.records import user_fingerprint


def make_layer(users, num_users=4):
    layer = UserEmbedding(num_users, 3)
    layer.build()
    layer.adapt(user_fingerprint(tf.constant(users)).numpy())
    return layer


def test_every_training_user_has_a_row_of_their_own():
    layer = make_layer(["ann", "bob", "cem", "dia"])
    vectors = layer(user_fingerprint(tf.constant(["ann", "bob", "cem", "dia"]))).numpy()
    assert sorted(map(tuple, vectors)) == sorted(map(tuple, layer.vectors.embeddings.numpy()))


def test_anybody_else_has_the_zero_vector():
    layer = make_layer(["ann", "bob"])
    user = user_fingerprint(tf.constant(["eve", "ann", ""]))
    vectors = layer(user).numpy()
    assert layer.is_known(user).numpy().tolist() == [False, True, False]
    assert not vectors[[0, 2]].any()
    assert vectors[1].all()


def test_only_the_batch_s_known_users_have_a_gradient():
    layer = make_layer(["ann", "bob"])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(user_fingerprint(tf.constant(["ann", "eve"]))))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.vectors.table)).numpy()
    assert np.count_nonzero(gradient.any(axis=1)) == 1


def test_a_fingerprint_is_the_same_everywhere():
    assert user_fingerprint(tf.constant(["u1"])).numpy().tolist() == [7313556432661986459]


def test_no_users_at_all_is_an_error():
    with pytest.raises(ValueError, match=r"the schema of its dataset counts none\. Prepare the dataset with a --user"):
        UserEmbedding(0, 3)


def test_a_layer_comes_back_from_its_config():
    layer = UserEmbedding(4, 3, initializer=keras.initializers.RandomNormal(stddev=0.5))
    assert UserEmbedding.from_config(layer.get_config()).get_config() == layer.get_config()
