import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.layers import (
    FUSIONS,
    EncoderConfig,
    Fusion,
    SelfAttention,
    SequenceEncoder,
    TransformerBlock,
    attention_bias,
)
from seqrec_tf.layers.attention import attend

# 3 histories of up to 4 events, padded on the right, on the left and in between.
IS_REAL = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]], bool)
DIM = 4


def states(seed=1, batch=3, length=4):
    return np.random.default_rng(seed).normal(size=(batch, length, DIM)).astype(np.float32)


def randomise(layer, seed=2):
    """Give every weight a value that is neither 0 nor 1, so that no part of the layer can hide."""
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        if "seed" not in weight.path:
            weight.assign(random.normal(size=weight.shape, scale=0.7))


def make_attention(num_heads=1, **options):
    layer = SelfAttention(num_heads=num_heads, dropout_rate=0.0, **options)
    layer.build((None, None, DIM))
    randomise(layer)
    return layer


def make_block(fusion=None, **options):
    defaults = {"dim": DIM, "num_heads": 2, "feed_forward_ratio": 1.5, "dropout_rate": 0.0, "activation": "relu"}
    layer = TransformerBlock(EncoderConfig(**{**defaults, "norm": "pre", **options}), is_causal=True, fusion=fusion)
    layer.build((None, None, DIM))
    randomise(layer)
    return layer


def make_encoder(**options):
    is_causal = options.pop("is_causal", True)
    defaults = {"max_len": 4, "num_blocks": 2, "num_heads": 2, "feed_forward_ratio": 1.5, "dropout_rate": 0.0}
    config = EncoderConfig(**{**defaults, "dim": DIM, "norm": "pre", "activation": "relu", **options})
    layer = SequenceEncoder(config, is_causal=is_causal)
    layer.build((None, None, DIM))
    randomise(layer)
    return layer


def real_bias():
    return attention_bias(tf.constant(IS_REAL), tf.float32)


def slow_softmax(logits):
    powers = [np.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def slow_attention(layer, queries, keys_values, is_seen):
    """Every row, head, query and key in turn; `is_seen` is bool [B, Q, L]."""
    (query_kernel, query_bias), (kernel, bias) = layer.query.get_weights(), layer.key_value.get_weights()
    head_dim = DIM // layer.num_heads
    out = np.zeros_like(queries)
    for row in range(len(queries)):
        query = queries[row] @ query_kernel + query_bias
        key = keys_values[row] @ kernel[:, :DIM] + bias[:DIM]
        value = keys_values[row] @ kernel[:, DIM:] + bias[DIM:]
        for head in range(layer.num_heads):
            part = slice(head * head_dim, (head + 1) * head_dim)
            for i in range(len(query)):
                seen = [j for j in range(len(key)) if is_seen[row, i, j]]
                weights = slow_softmax([query[i, part] @ key[j, part] / head_dim**0.5 for j in seen])
                out[row, i, part] = sum(weight * value[j, part] for weight, j in zip(weights, seen, strict=True))
    if layer.mixes_heads:
        kernel, bias = layer.mix.get_weights()
        out = out @ kernel + bias
    return out


def slow_layer_norm(layer, x):
    gamma, beta = layer.get_weights()
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return gamma * (x - mean) / np.sqrt(variance + 1e-6) + beta


def slow_feed_forward(block, x):
    (w1, b1), (w2, b2) = block.hidden.get_weights(), block.output_projection.get_weights()
    hidden = x @ w1 + b1
    if block.config.activation == "swiglu":
        left, right = np.split(hidden, 2, axis=-1)
        hidden = left / (1 + np.exp(-left)) * right
    else:
        hidden = np.maximum(hidden, 0)
    return slow_gate(block, 1, x) * (hidden @ w2 + b2)


def slow_gate(block, half, x):
    if not block.config.is_gated:
        return 1.0
    kernel, bias = block.gates[half].get_weights()
    return 1 / (1 + np.exp(-(x @ kernel + bias)))


def slow_block(block, x, is_seen):
    if block.config.norm == "pre":
        normed = slow_layer_norm(block.attention_norm, x)
        x = x + slow_gate(block, 0, normed) * slow_attention(block.attention, normed, normed, is_seen)
        return x + slow_feed_forward(block, slow_layer_norm(block.feed_forward_norm, x))
    attended = slow_gate(block, 0, x) * slow_attention(block.attention, x, x, is_seen)
    x = slow_layer_norm(block.attention_norm, x + attended)
    return slow_layer_norm(block.feed_forward_norm, x + slow_feed_forward(block, x))


def seen_causally():
    """bool [B, L, L], and whether each query sees any key at all."""
    is_seen = IS_REAL[:, None, :] & np.tril(np.ones((4, 4), bool))
    return is_seen, is_seen.any(axis=-1)


class GivenMasks:
    """Stands for a Dropout: one mask a chunk, of numbers that no two share."""

    def __init__(self):
        self.random = np.random.default_rng(4)
        self.drawn = []

    def mask(self, shape, dtype):
        self.drawn.append(self.random.random(tuple(shape)).astype(np.float32))
        return tf.cast(self.drawn[-1], dtype)


@pytest.mark.parametrize("has_dropout", [False, True])
@pytest.mark.parametrize("num_chunks", [1, 2, 3, 7])
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_and_its_gradients_are_those_of_its_formula(is_causal, num_chunks, has_dropout):
    random = np.random.default_rng(3)
    query, key, value = (tf.Variable(random.normal(size=[3, 2, 5, 4]).astype(np.float32)) for _ in range(3))
    is_seen = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]], bool)
    goal = random.normal(size=[3, 2, 5, 4]).astype(np.float32)
    masks = GivenMasks() if has_dropout else None
    with tf.GradientTape() as tape:
        result = attend(
            *(tf.convert_to_tensor(part) for part in (query, key, value)),
            attention_bias(tf.constant(is_seen), tf.float32),
            is_causal=is_causal,
            num_chunks=num_chunks,
            dropout=masks,
        )
        total = tf.reduce_sum(result * goal)
    gradients = tape.gradient(total, [query, key, value])
    # All pairs at once, with the gradient that TensorFlow makes.
    visible = np.broadcast_to(is_seen[:, None, None], [3, 2, 5, 5])
    visible = visible & np.tril(np.ones([5, 5], bool)) if is_causal else visible
    factor = np.ones([3, 2, 5, 5], np.float32)
    if has_dropout:
        rows = [np.pad(mask, [(0, 0), (0, 0), (0, 0), (0, 5 - mask.shape[-1])]) for mask in masks.drawn]
        factor = np.concatenate(rows, axis=2)
    with tf.GradientTape() as tape:
        logits = tf.where(visible, tf.matmul(query, key, transpose_b=True), -np.inf)
        expected = tf.matmul(tf.nn.softmax(logits) * factor, value)
        total = tf.reduce_sum(expected * goal)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    for ours, theirs in zip(gradients, tape.gradient(total, [query, key, value]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_bias_shows_all_real_keys():
    bias = attention_bias(tf.constant([[True, False, True]]), tf.float32).numpy()
    assert bias.shape == (1, 1, 1, 3)
    assert (bias[0, 0] == 0).tolist() == [[True, False, True]]


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
def test_a_bias_hides_without_overflow(dtype):
    bias = attention_bias(tf.constant([[True, False]]), dtype)
    assert bias.dtype == dtype
    assert np.all(np.isfinite(tf.cast(bias, tf.float32)))
    weights = tf.nn.softmax(bias + tf.cast([-50.0, 50.0], dtype))
    np.testing.assert_array_equal(tf.cast(weights, tf.float32)[0, 0, 0], [1, 0])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
@pytest.mark.parametrize("logit", [-100.0, 0.0, 100.0])
def test_a_query_that_sees_no_key_gets_finite_weights(dtype, logit):
    bias = attention_bias(tf.constant([[False, False]]), dtype)
    weights = tf.nn.softmax(bias + tf.cast(logit, dtype))
    np.testing.assert_array_equal(tf.cast(weights, tf.float32)[0, 0, 0], [0.5, 0.5])


@pytest.mark.parametrize(("num_heads", "mixes_heads"), [(1, False), (2, False), (4, False), (2, True)])
def test_attention_equals_a_slow_loop(num_heads, mixes_heads):
    layer = make_attention(num_heads, mixes_heads=mixes_heads)
    is_seen, sees_any = seen_causally()
    expected = slow_attention(layer, states(), states(3), is_seen)
    result = layer(states(), states(3), real_bias(), is_causal=True).numpy()
    np.testing.assert_allclose(result[sees_any], expected[sees_any], atol=1e-5)


def test_attention_of_few_queries_is_that_of_their_rows():
    layer = make_attention(2)
    whole = layer(states(), states(), real_bias(), is_causal=True).numpy()
    one = layer(states()[:, 3:], states(), real_bias()).numpy()
    np.testing.assert_allclose(one, whole[:, 3:], atol=1e-6)


def test_heads_that_do_not_divide_the_dimension_are_refused():
    with pytest.raises(ValueError, match=r"num_heads must divide model\.dim, got 3 heads for dim 4"):
        make_attention(3)


@pytest.mark.parametrize("options", [{}, {"is_gated": True}, {"activation": "swiglu"}, {"mixes_heads": True}])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_equals_its_formula(norm, options):
    block = make_block(norm=norm, **options)
    is_seen, sees_any = seen_causally()
    result = block(states(), real_bias()).numpy()
    np.testing.assert_allclose(result[sees_any], slow_block(block, states(), is_seen)[sees_any], atol=1e-4)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_later_event_changes_no_earlier_row(norm):
    block = make_block(norm=norm)
    is_real = tf.ones([3, 4], tf.bool)
    bias = attention_bias(is_real, tf.float32)
    changed = states()
    changed[:, 2:] = states(9)[:, 2:]
    before, after = block(states(), bias).numpy(), block(changed, bias).numpy()
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert np.all(np.abs(after[:, 2:] - before[:, 2:]).max(axis=-1) > 1e-3)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_what_stands_in_padding_changes_no_real_row(norm):
    block = make_block(norm=norm)
    changed = np.where(IS_REAL[..., None], states(), 1e3).astype(np.float32)
    before, after = block(states(), real_bias()).numpy(), block(changed, real_bias()).numpy()
    np.testing.assert_allclose(after[IS_REAL], before[IS_REAL], atol=1e-6)


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_asked_for_some_rows_a_block_computes_those_of_the_whole(norm, is_gated):
    block = make_block(norm=norm, is_gated=is_gated)
    whole = block(states(), real_bias()).numpy()
    bias = np.where(seen_causally()[0], 0, -1e9).astype(np.float32)[:, None]
    some = block(states(), bias[:, :, 1:3], queries=states()[:, 1:3]).numpy()
    np.testing.assert_allclose(some, whole[:, 1:3], atol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"], indirect=True)
@pytest.mark.usefixtures("policy")
def test_rows_of_padding_alone_give_finite_states_and_gradients(norm):
    block = make_block(norm=norm)
    x = tf.constant(states())
    with tf.GradientTape() as tape:
        tape.watch(x)
        is_real = tf.zeros([3, 4], tf.bool)
        out = block(x, attention_bias(is_real, block.compute_dtype))
        total = tf.reduce_sum(tf.cast(out, tf.float32) ** 2)
    gradients = tape.gradient(total, [x, *block.trainable_variables])
    assert np.all(np.isfinite(tf.cast(out, tf.float32)))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_bfloat16", 0.15), ("mixed_float16", 0.02)], indirect=["policy"]
)
def test_half_precision_is_near_full_precision(policy, tolerance):
    half = make_block()
    keras.config.set_dtype_policy("float32")
    full = make_block()
    assert half.dtype_policy.name == policy
    bias = attention_bias(tf.constant(IS_REAL), half.compute_dtype)
    result = half(states(), bias)
    assert result.dtype == half.compute_dtype
    expected = full(states(), real_bias()).numpy()
    np.testing.assert_allclose(
        tf.cast(result, tf.float32).numpy()[IS_REAL], expected[IS_REAL], atol=tolerance, rtol=tolerance
    )


def test_dropout_acts_in_training_alone():
    block = make_block(dropout_rate=0.5)
    quiet = block(states(), real_bias()).numpy()
    np.testing.assert_array_equal(block(states(), real_bias(), training=False), quiet)
    assert np.any(np.abs(block(states(), real_bias(), training=True).numpy() - quiet) > 1e-3)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match=r"model\.norm must be one of pre, post, got 'prae'"):
        make_block(norm="prae")


@pytest.mark.parametrize(
    "make",
    [
        make_attention,
        lambda: make_block(norm="post", activation="swiglu", is_gated=True),
        lambda: make_encoder(norm="post", is_causal=False, activation="swiglu", is_gated=True),
    ],
)
def test_a_layer_is_rebuilt_from_its_config(make):
    layer = make()
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()


every_norm = pytest.mark.parametrize("norm", ["pre", "post"])
every_direction = pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "bidirectional"])


def slow_encoder(encoder, embedded):
    """Blocks over events with the p-th newest position added, one norm at the end ("pre") or the start ("post")."""
    positions = encoder.positions.get_weights()[0]
    age = np.cumsum(IS_REAL[:, ::-1], axis=1)[:, ::-1] * IS_REAL
    x = embedded + positions[np.minimum(age, encoder.config.max_len)]
    is_seen = np.broadcast_to(IS_REAL[:, None, :], (3, 4, 4))
    if encoder.is_causal:
        is_seen = is_seen & np.tril(np.ones((4, 4), bool))
    is_seen = is_seen | np.eye(4, dtype=bool)  # rows of padding see something; what they are is not compared
    is_pre = encoder.config.norm == "pre"
    x = x if is_pre else slow_layer_norm(encoder.norm, x)
    for block in encoder.blocks:
        x = slow_block(block, x, is_seen)
    return slow_layer_norm(encoder.norm, x) if is_pre else x


@every_norm
@every_direction
@pytest.mark.parametrize("max_len", [4, 2])
def test_an_encoder_equals_its_formula(norm, is_causal, max_len):
    encoder = make_encoder(norm=norm, is_causal=is_causal, max_len=max_len)
    result = encoder(states(), tf.constant(IS_REAL)).numpy()
    assert result.shape == (3, 4, DIM)
    np.testing.assert_allclose(result[IS_REAL], slow_encoder(encoder, states())[IS_REAL], atol=1e-3)


@every_norm
@every_direction
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_asked_for_a_position_an_encoder_gives_its_row_of_the_whole(norm, is_causal, num_blocks):
    encoder = make_encoder(norm=norm, is_causal=is_causal, num_blocks=num_blocks)
    whole = encoder(states(), tf.constant(IS_REAL)).numpy()
    for position in np.array([[0, 1, 0], [2, 3, 3], [1, 2, 2]], np.int32):
        one = encoder(states(), tf.constant(IS_REAL), position=tf.constant(position)).numpy()
        assert one.shape == (3, DIM)
        np.testing.assert_allclose(one, whole[[0, 1, 2], position], atol=1e-5)


@every_norm
def test_only_a_causal_encoder_hides_later_events(norm):
    is_real = tf.ones([3, 4], tf.bool)
    changed = states()
    changed[:, 3] = states(9)[:, 3]
    for is_causal in (True, False):
        encoder = make_encoder(norm=norm, is_causal=is_causal)
        change = np.abs(encoder(changed, is_real).numpy() - encoder(states(), is_real).numpy()).max(axis=-1)
        assert np.all((change[:, :3] == 0) if is_causal else (change[:, :3] > 1e-4))
        assert np.all(change[:, 3] > 1e-4)


@every_direction
def test_the_positions_of_an_encoder_count_from_the_newest_event(is_causal):
    encoder = make_encoder(is_causal=is_causal, num_blocks=1)
    before = encoder(states(), tf.constant(IS_REAL)).numpy()
    table = encoder.positions.get_weights()[0]
    table[4] += 1.0  # no history has a fourth newest event
    encoder.positions.set_weights([table])
    np.testing.assert_array_equal(encoder(states(), tf.constant(IS_REAL)).numpy()[IS_REAL], before[IS_REAL])
    table[1] += [1.0, -1.0, 2.0, 0.0]
    encoder.positions.set_weights([table])
    change = np.abs(encoder(states(), tf.constant(IS_REAL)).numpy() - before).max(axis=-1)
    newest = np.array([2, 3, 3])
    assert np.all(change[[0, 1, 2], newest] > 1e-3)
    if is_causal:  # those before do not see it
        assert np.all(change[[0, 0, 1, 1, 2], [0, 1, 1, 2, 0]] == 0)


@every_norm
@every_direction
def test_padding_on_either_side_changes_no_state_of_an_encoder(norm, is_causal):
    encoder = make_encoder(norm=norm, is_causal=is_causal)
    events = states()[:, :3]
    expected = encoder(events, tf.ones([3, 3], tf.bool)).numpy()
    for before, after in ((2, 0), (0, 2), (1, 3)):
        padded = np.pad(events, [(0, 0), (before, after), (0, 0)], constant_values=7.0)
        is_real = np.pad(np.ones([3, 3], bool), [(0, 0), (before, after)])
        result = encoder(padded, tf.constant(is_real)).numpy()[:, before : before + 3]
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_an_encoder_rebuilt_from_its_config_with_its_weights_is_the_same():
    encoder = make_encoder(norm="post", is_causal=False, activation="gelu")
    copy = keras.layers.deserialize(keras.layers.serialize(encoder))  # builds it too
    copy.set_weights(encoder.get_weights())
    is_real = tf.constant(IS_REAL)
    np.testing.assert_array_equal(copy(states(), is_real), encoder(states(), is_real))


def test_an_encoder_of_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match=r"model\.norm must be one of pre, post, got 'prae'"):
        make_encoder(norm="prae")


def side_features():
    return [tf.constant(states(seed)) for seed in (5, 6)]


def slow_fusion(layer, parts):
    if layer.kind == "sum":
        return sum(parts)
    if layer.kind == "concat":
        kernel, bias = layer.layer.get_weights()
        return np.concatenate(parts, axis=-1) @ kernel + bias
    (kernel,) = layer.layer.get_weights()
    return sum(part / (1 + np.exp(-(part @ kernel))) for part in parts)


def slow_noninvasive_block(block, x, side, is_seen):
    """Attention weights of a block on fused states; its values of the states alone."""
    normed = slow_layer_norm(block.attention_norm, x) if block.config.norm == "pre" else x
    fused = slow_fusion(block.fuse, [normed, *side])
    layer = block.attention
    (query_kernel, query_bias), (kernel, bias) = layer.query.get_weights(), layer.key_value.get_weights()
    head_dim, attended = DIM // layer.num_heads, np.zeros_like(x)
    for row in range(len(x)):
        query, key = fused[row] @ query_kernel + query_bias, fused[row] @ kernel[:, :DIM] + bias[:DIM]
        value = normed[row] @ kernel[:, DIM:] + bias[DIM:]
        for part in (slice(head * head_dim, (head + 1) * head_dim) for head in range(layer.num_heads)):
            for i in range(len(query)):
                seen = [j for j in range(len(key)) if is_seen[row, i, j]]
                weights = slow_softmax([query[i, part] @ key[j, part] / head_dim**0.5 for j in seen])
                attended[row, i, part] = sum(weight * value[j, part] for weight, j in zip(weights, seen, strict=True))
    if block.config.norm == "pre":
        x = x + attended
        return x + slow_feed_forward(block, slow_layer_norm(block.feed_forward_norm, x))
    x = slow_layer_norm(block.attention_norm, x + attended)
    return slow_layer_norm(block.feed_forward_norm, x + slow_feed_forward(block, x))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_side_features_enter_queries_and_keys_alone(fusion, norm):
    block = make_block(norm=norm, fusion=fusion)
    block(states(), real_bias(), side=side_features())  # builds the fusion
    randomise(block)
    is_seen, sees_any = seen_causally()
    result = block(states(), real_bias(), side=side_features()).numpy()
    expected = slow_noninvasive_block(block, states(), [side.numpy() for side in side_features()], is_seen)
    np.testing.assert_allclose(result[sees_any], expected[sees_any], atol=1e-4)


def test_an_unknown_fusion_names_the_nearest():
    with pytest.raises(ValueError, match=r"model\.fusion must be one of sum, concat, gating, got 'gate'"):
        Fusion("gate")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_encoder_with_fusion_gives_the_row_of_a_position(fusion):
    encoder = SequenceEncoder(
        EncoderConfig(max_len=4, dim=DIM, num_heads=2, dropout_rate=0.0), is_causal=True, fusion=fusion
    )
    whole = encoder(states(), tf.constant(IS_REAL), side=side_features())
    row = encoder(states(), tf.constant(IS_REAL), side=side_features(), position=tf.constant([1, 2, 0]))
    np.testing.assert_allclose(row, tf.gather(whole, [1, 2, 0], axis=1, batch_dims=1), atol=1e-6)
