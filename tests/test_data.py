"""Batches: what is in them, in which order, and that nothing comes from the future."""

import numpy as np
import pytest
import tensorflow as tf
from small_folders import seal

from seqrec_tf import data
from seqrec_tf.learning.optimizers import SGD
from seqrec_tf.models import SASRec
from seqrec_tf.models.sasrec import SASRecConfig
from seqrec_tf.records import DatasetFolder, user_fingerprint


@pytest.fixture(scope="module")
def tiny_model(tiny_dataset):
    return SASRec.from_dataset(tiny_dataset, dim=4, max_len=3)


@pytest.fixture(scope="module")
def chain_model(chain_dataset):
    return SASRec.from_dataset(chain_dataset, dim=4, max_len=50)


def rows(batches):
    """Every training row as ((inputs...), (labels...)) without padding, in order."""
    return [
        (tuple(i for i in items if i), tuple(t for t in targets if t))
        for inputs, labels, _ in batches
        for items, targets in zip(inputs["item_ids"].numpy().tolist(), labels.numpy().tolist(), strict=True)
    ]


def ids_of(dataset, items):
    return tuple(DatasetFolder(dataset).item_ids.index(item) + 1 for item in items)


def test_each_position_predicts_the_item_that_follows(tiny_dataset, tiny_model):
    # Training sequences: ann a b, bob b a d; eve's has one event and nothing to predict.
    expected = {(ids_of(tiny_dataset, "a"), ids_of(tiny_dataset, "b"))}
    expected |= {(ids_of(tiny_dataset, "ba"), ids_of(tiny_dataset, "ad"))}
    assert set(rows(data.load(tiny_dataset, tiny_model))) == expected


def test_training_keeps_the_newest_events(tiny_dataset):
    model = SASRec.from_dataset(tiny_dataset, dim=4, max_len=1)
    assert (ids_of(tiny_dataset, "a"), ids_of(tiny_dataset, "d")) in rows(data.load(tiny_dataset, model))


def test_an_epoch_holds_every_sequence_once(chain_dataset, chain_model):
    epoch = rows(data.load(chain_dataset, chain_model, batch_size=16))
    other = rows(data.load(chain_dataset, chain_model, batch_size=64, sort_by_length=False))
    assert len(epoch) == len(DatasetFolder(chain_dataset).item_ids) * 10
    assert sorted(epoch) == sorted(other)


def test_the_number_of_batches_is_as_announced(chain_dataset, chain_model):
    batches = data.load(chain_dataset, chain_model, batch_size=48)
    steps = data.steps_per_epoch(DatasetFolder(chain_dataset), 48)
    assert len(list(batches)) == steps == batches.cardinality() == 5


def test_an_epoch_has_the_same_order_in_every_run_and_another_than_the_next(chain_dataset, chain_model):
    epochs = rows(data.load(chain_dataset, chain_model, epochs=range(0, 3), seed=1))
    assert epochs[200:] == rows(data.load(chain_dataset, chain_model, epochs=range(1, 3), seed=1))
    assert epochs[:200] != epochs[200:400]
    assert epochs[:200] != rows(data.load(chain_dataset, chain_model, epochs=range(0, 1), seed=2))
    assert sorted(epochs[:200]) == sorted(epochs[200:400])


def test_without_epochs_each_iteration_has_a_new_order(chain_dataset, chain_model):
    batches = data.load(chain_dataset, chain_model, batch_size=16)
    assert rows(batches) != rows(batches)


def test_little_of_a_batch_is_padding(write_dataset, tmp_path):
    rng = np.random.default_rng(0)
    sequences = {str(user): list("abcde" * int(rng.integers(1, 30))) for user in range(640)}
    dataset = write_dataset(tmp_path / "dataset", sequences)
    model = SASRec.from_dataset(dataset, dim=4, max_len=200)

    def share_of_padding(**options):
        labels = [y.numpy().ravel() for _, y, _ in data.load(dataset, model, batch_size=32, **options)]
        return np.mean(np.concatenate(labels) == 0)

    assert share_of_padding() < 0.15
    assert share_of_padding(sort_by_length=False) > 0.4


@pytest.fixture(scope="module")
def uneven(write_dataset, tmp_path_factory):
    """600 short sequences and 40 long ones."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(4, 12, size=600), rng.integers(100, 150, size=40)])
    sequences = {str(user): list("abcde" * 30)[:length] for user, length in enumerate(lengths)}
    return write_dataset(tmp_path_factory.mktemp("uneven") / "dataset", sequences)


@pytest.fixture(scope="module")
def uneven_model(uneven):
    return SASRec.from_dataset(uneven, dim=4, max_len=200)


@pytest.mark.parametrize("batch_size", [2, 8, 9, 12, 96, 640, 639])
def test_batches_of_like_length_have_as_many_targets_each(uneven, uneven_model, batch_size):
    batches = [labels.numpy() for _, labels, _ in data.load(uneven, uneven_model, batch_size=batch_size)]
    assert len(batches) == -(-640 // batch_size)
    assert sum(map(len, batches)) == 640
    assert min(map(len, batches)) >= (batch_size if batch_size <= 8 else 7)
    if batch_size == 96:
        targets = [np.count_nonzero(labels) for labels in batches]
        assert max(targets) < 1.5 * np.mean(targets)
        assert max(map(len, batches)) > 5 * min(map(len, batches))


def test_every_target_of_an_epoch_counts_the_same(chain_dataset, chain_model):
    """A batch's weight over its number of targets is the same for all batches, and the weights' mean is 1."""
    batches = list(data.load(chain_dataset, chain_model, batch_size=20))
    targets = [np.count_nonzero(labels) for _, labels, _ in batches]
    weights = [weight.numpy() for _, _, weight in batches]
    assert all((weight == weight[0]).all() for weight in weights)
    ratios = np.array([weight[0] for weight in weights]) / targets
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)
    assert np.mean([weight[0] for weight in weights]) == pytest.approx(1.0)


def test_what_is_left_after_the_first_window_counts_as_what_it_is(chain_dataset, chain_model, monkeypatch):
    monkeypatch.setattr(data, "_WINDOW", 64)
    num_sequences = DatasetFolder(chain_dataset).stats["splits"]["train"]["sequences"]
    batches = list(data.load(chain_dataset, chain_model, batch_size=6))
    assert num_sequences % 60 % 6 != 0
    weights = sum(weight.numpy()[0] for _, _, weight in batches)
    assert weights == pytest.approx(num_sequences / 6, rel=1e-5)


def test_a_step_goes_as_far_as_its_batch_weighs(tiny_dataset):
    changes = []
    for weight in (1.0, 3.0):
        model = SASRec.from_dataset(tiny_dataset, dim=4, max_len=3, dropout_rate=0.0, loss="softmax")
        for number, variable in enumerate(model.trainable_variables):
            variable.assign(np.random.default_rng(number).normal(size=variable.shape))
        before = model.items.embeddings.numpy()
        model.compile(optimizer=SGD(1.0))
        inputs, labels, _ = next(iter(data.load(tiny_dataset, model)))
        model.train_step((inputs, labels, tf.fill([len(labels)], weight)))
        changes.append(model.items.embeddings.numpy() - before)
    np.testing.assert_allclose(changes[1], 3 * changes[0], rtol=1e-3, atol=1e-5)
    assert np.abs(changes[0]).max() > 0.01


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_held_out_event_is_predicted_from_what_came_before_it(tiny_dataset, tiny_model, split):
    held_out = 1 if split == "test" else 2
    expected = set()
    for sequence in ("abcd", "badce", "cab"):
        history, target = sequence[:-held_out], sequence[-held_out]
        expected.add((ids_of(tiny_dataset, history[-3:]), ids_of(tiny_dataset, target), ids_of(tiny_dataset, history)))
    found = set()
    for inputs, labels in data.load(tiny_dataset, tiny_model, split, batch_size=2):
        for items, target, excluded in zip(
            inputs["item_ids"].numpy(), labels["target"].numpy(), labels["excluded"].numpy(), strict=True
        ):
            found.add((tuple(items[items > 0]), (target,), tuple(excluded[excluded > 0])))
    assert found == expected


def test_history_is_not_excluded_when_it_may_be_recommended(tiny_dataset, tiny_model):
    _, labels = next(iter(data.load(tiny_dataset, tiny_model, "test", exclude_history=False)))
    assert labels["excluded"].shape[1] == 0


def test_every_event_after_the_first_target_is_predicted(tiny_dataset, tmp_path, tiny_model):
    """A session of four, targets from position 1: three predictions, each from its own past."""
    import shutil

    from seqrec_tf import records

    dataset = tmp_path / "sessions"
    shutil.copytree(tiny_dataset, dataset)
    folder = DatasetFolder(dataset)
    shutil.rmtree(dataset / "test")
    (dataset / "test").mkdir()
    record = records.encode_example(
        {"user_id": "u", "item_ids": [4, 2, 4, 1], "target_start": 1}, folder.schema.features
    )
    with tf.io.TFRecordWriter(str(dataset / "test" / records.shard_name(0, 1)), "GZIP") as writer:
        writer.write(record)
    seal(dataset)
    folder = DatasetFolder(dataset)
    model = SASRec.from_dataset(tiny_dataset, max_len=2)
    inputs, labels = next(iter(data.evaluation_batches(folder, "test", model, batch_size=8, exclude_history=True)))
    assert inputs["item_ids"].numpy().tolist() == [[4, 0], [4, 2], [2, 4]]
    assert labels["target"].numpy().tolist() == [2, 4, 1]
    assert labels["excluded"].numpy().tolist() == [[4, 0, 0], [4, 2, 0], [4, 2, 4]]
    assert labels["touched"].numpy().tolist() == [[4, 2, 4, 1]] * 3


def test_a_validation_may_look_at_some_sequences(chain_dataset, chain_model):
    some = list(data.load(chain_dataset, chain_model, "valid", batch_size=16, max_sequences=20))
    assert [len(labels["target"]) for _, labels in some] == [16, 4]
    assert len(list(data.load(chain_dataset, chain_model, "valid", batch_size=16))) == 13


def test_an_unknown_split_is_an_error(tiny_dataset, tiny_model):
    with pytest.raises(ValueError, match="must be one of train, valid, test, got 'dev'"):
        data.load(tiny_dataset, tiny_model, "dev")


def test_an_unknown_window_is_an_error(tiny_dataset, tiny_model):
    with pytest.raises(ValueError, match=r"window must be one of newest, random, got 'randm'\. Did you mean 'random'"):
        data.load(tiny_dataset, tiny_model, window="randm")


def test_negatives_avoid_events_that_are_too_old_for_the_model(write_dataset, tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "dataset", {"u": list("abcdefgh"), "v": list("hgfedcba")})
    model = SASRec.from_dataset(dataset, dim=4, max_len=2, num_negatives=50)
    inputs, labels, _ = next(iter(data.load(dataset, model)))
    assert inputs["item_ids"].shape == (2, 2)
    drawn = model.objective.draw(inputs["seen"], labels != 0).numpy().reshape(2, 2, 50)
    for row in range(2):
        assert len(set(inputs["seen"].numpy()[row])) == 6
        assert set(drawn[row].ravel()) == set(range(1, 9)) - set(inputs["seen"].numpy()[row])

    # And it is these that the loss gives to the sampler.
    avoided = []
    monkeypatch.setattr(
        "seqrec_tf.learning.sampling.uniform_negatives",
        lambda excluded, *, shape, **options: (avoided.append(excluded.numpy()), tf.ones(shape, tf.int32))[1],
    )
    model.target_losses(inputs, labels, model(inputs, training=True))
    assert [set(row) for row in avoided[0]] == [set(row) for row in inputs["seen"].numpy()]


def test_a_window_is_a_run_of_the_sequence_and_a_random_one_gets_everywhere(write_dataset, tmp_path):
    events = list("abcdefghijkl")  # of which the last two are held out
    dataset = write_dataset(tmp_path / "dataset", {"u": events, "v": events[::-1]})
    model = SASRec.from_dataset(dataset, dim=4, max_len=3)
    names = DatasetFolder(dataset).item_ids
    for window in ("newest", "random"):
        seen = []
        for inputs, labels, _ in data.load(dataset, model, window=window, epochs=range(60)):
            for row, targets in zip(inputs["item_ids"].numpy(), labels.numpy(), strict=True):
                seen.append("".join(names[item - 1] for item in [*row, targets[-1]]))
        assert all(run in "abcdefghij" or run in "lkjihgfedc" for run in seen)
        newest = sum(run in ("ghij", "fedc") for run in seen)
        if window == "newest":
            assert newest == len(seen) == 120
        else:
            assert set(seen) == {text[i : i + 4] for text in ("abcdefghij", "lkjihgfedc") for i in range(7)}
            assert 0.4 * 120 < newest < 0.75 * 120  # half of them, and a seventh of the others


def test_a_model_is_given_what_it_reads(tmp_path, tiny_dataset):
    """The user, times with the time of the target, and labels, beside each event."""
    import shutil

    from seqrec_tf import records, schema
    from seqrec_tf.schema import Schema

    dataset = tmp_path / "full"
    shutil.copytree(tiny_dataset, dataset)
    features = (schema.USER_ID_FEATURE, schema.ITEM_IDS_FEATURE, schema.TIMESTAMPS_FEATURE, schema.LABELS_FEATURE)
    features += (schema.TARGET_START_FEATURE,)
    full = Schema(num_items=5, features=features, max_len=4, time_unit="seconds", num_users=1)
    (dataset / "schema.json").write_text(full.to_json())
    record = {"user_id": "u", "item_ids": [4, 2, 4, 1], "timestamps": [10, 20, 30, 40], "labels": [1, 0, 1, 0]}
    for split, start in (("train", 1), ("test", 2)):
        shutil.rmtree(dataset / split)
        (dataset / split).mkdir()
        with tf.io.TFRecordWriter(str(dataset / split / records.shard_name(0, 1)), "GZIP") as writer:
            writer.write(records.encode_example({**record, "target_start": start}, features))
    seal(dataset)

    class Reader(SASRec):
        reads = ("user_id", "timestamps", "labels")

        def make_batch(self, sequences, seed):
            return {name: sequences[name] for name in (*self.reads, "item_ids")}, sequences["item_ids"]

    model = Reader(SASRecConfig(dim=4, max_len=2), full)
    user = int(user_fingerprint("u"))
    inputs, labels = next(iter(data.load(dataset, model, "test")))
    assert {name: value.numpy().tolist() for name, value in inputs.items()} == {
        "item_ids": [[4, 2], [2, 4]],
        "timestamps": [[10, 20], [20, 30]],
        "labels": [[1, 0], [0, 1]],
        "target_time": [30, 40],
        "user_id": [user, user],
    }
    assert labels["target_label"].numpy().tolist() == [1, 0]
    inputs, _, _ = next(iter(data.load(dataset, model)))
    assert inputs["timestamps"].to_list() == [[20, 30, 40]]
    assert inputs["labels"].to_list() == [[0, 1, 0]]
    assert inputs["user_id"].numpy().tolist() == [user]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_no_thread_of_tf_data_sleeps_while_an_iterator_ends(tiny_dataset, tiny_model, split):
    batches = data.load(tiny_dataset, tiny_model, split)
    replicas = data.replica_batches(batches, tf.distribute.InputContext(1, 0, 1))
    assert not batches.options().autotune.enabled
    assert not replicas.options().autotune.enabled
