"""Requests of several connections in one call of a model."""

import asyncio
import contextlib
import shutil

import numpy as np
import pytest

from seqrec_tf.schema import SCHEMA_FILE, Schema
from serving.batching import Batcher
from serving.model_store import LoadedModel
from serving.rest_json import StatusError

WAIT_US = 5_000_000  # a batch of these tests waits until it is full


def history(*rows):
    return {"history": np.array([[item.encode() for item in row] for row in rows], dtype=object)}


@pytest.fixture
def batcher():
    """Makes batchers, which list the models that they call."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            calls = []
            batcher = Batcher(observe=lambda name, microseconds: calls.append(name), **options)
            stack.callback(batcher.close)
            return batcher, calls

        yield make


def ask(batcher, model, signature_name, *feeds):
    """What each of some requests that come together gets: its outputs, or its error."""

    async def gather():
        return await asyncio.gather(
            *(batcher.run(model, signature_name, feed) for feed in feeds), return_exceptions=True
        )

    return asyncio.run(gather())


def check_as_alone(model, feeds, outcomes):
    for feed, outcome in zip(feeds, outcomes, strict=True):
        alone = model.predict("", feed)
        assert outcome.keys() == alone.keys()
        for name in alone:
            np.testing.assert_array_equal(outcome[name], alone[name])


def test_requests_that_come_together_are_answered_by_one_call_as_alone(store, batcher):
    shop = store.find("shop", None, None)
    feeds = history(["apple"]), history(["bread"], ["dates"]), history(["eggs"])
    together, calls = batcher(max_batch_size=4, batch_timeout_us=WAIT_US)
    check_as_alone(shop, feeds, ask(together, shop, "", *feeds))
    assert calls == ["shop"]


def test_a_request_alone_waits_for_nobody(store, batcher):
    shop = store.find("shop", None, None)
    alone, calls = batcher()
    check_as_alone(shop, [history(["apple"])], ask(alone, shop, "", history(["apple"])))
    assert calls == ["shop"]


def test_histories_of_unequal_length_are_padded_for_models_of_our_own(models, tmp_path, batcher):
    feeds = history(["apple"]), history(["bread", "dates", "eggs"]), history(["", "cheese"])
    path = shutil.copytree(models / "shop" / "7", tmp_path / "shop" / "7")
    for is_ours, num_calls in ((False, 3), (True, 1)):
        if is_ours:
            (path / "assets.extra" / SCHEMA_FILE).write_text(Schema(num_items=5).to_json())
        model = LoadedModel(path)
        together, calls = batcher(max_batch_size=3, batch_timeout_us=WAIT_US if is_ours else 0)
        check_as_alone(model, feeds, ask(together, model, "", *feeds))
        assert len(calls) == num_calls


def test_a_request_that_fails_spoils_no_other(store, batcher):
    numbers = store.find("numbers", None, None)
    values = [1, 2, 0, 3, 4]
    together, _ = batcher(max_batch_size=5, batch_timeout_us=WAIT_US)
    feeds = [{"value": np.array([value], np.int32)} for value in values]
    outcomes = ask(together, numbers, "divide", *feeds)
    for value, outcome in zip(values, outcomes, strict=True):
        if value:
            assert outcome["quotient"].tolist() == [12 // value]
        else:
            assert isinstance(outcome, StatusError)
            assert "division by zero" in outcome.message


def test_a_request_larger_than_a_batch_is_answered_in_several(store, batcher):
    shop = store.find("shop", None, None)
    feeds = [history(["apple"], ["bread"], ["cheese"], ["dates"], ["eggs"])]
    small, calls = batcher(max_batch_size=2)
    check_as_alone(shop, feeds, ask(small, shop, "", *feeds))
    assert len(calls) == 3


def test_long_histories_come_in_smaller_batches(models, tmp_path, batcher):
    path = shutil.copytree(models / "shop" / "7", tmp_path / "shop" / "7")
    (path / "assets.extra" / SCHEMA_FILE).write_text(Schema(num_items=5).to_json())
    model = LoadedModel(path)
    batches, calls = batcher(max_batch_size=8)
    ask(batches, model, "", history(*[["apple"] * 1024] * 4))  # 8 rows of 256, 2 of 1,024
    assert len(calls) == 2


def test_a_signature_with_an_output_of_no_rows_is_called_for_each_request(store, batcher):
    numbers = store.find("numbers", None, None)
    each, calls = batcher(max_batch_size=3)
    feeds = [{"value": np.array(values, np.float32)} for values in ([1, 2], [3])]
    outcomes = ask(each, numbers, "inspect", *feeds)
    assert [float(outcome["whole"]) for outcome in outcomes] == [3.0, 3.0]
    assert len(calls) == 2


def test_who_comes_to_a_full_queue_is_refused(store, batcher):
    shop = store.find("shop", None, None)
    full, _ = batcher(max_batch_size=3, batch_timeout_us=200_000, max_queued_rows=2)
    first, second = ask(full, shop, "", history(["apple"], ["bread"]), history(["eggs"]))
    assert first["items"].shape == (2, 3)
    assert isinstance(second, StatusError)
    assert second.code == "UNAVAILABLE"


def test_a_request_that_waits_too_long_is_given_up(store, batcher):
    shop = store.find("shop", None, None)
    slow, calls = batcher(max_batch_size=2, batch_timeout_us=200_000, timeout_s=0.05)
    (outcome,) = ask(slow, shop, "", history(["apple"]))
    assert isinstance(outcome, StatusError)
    assert outcome.code == "RESOURCE_EXHAUSTED"
    assert calls == []
