"""Figures of the server for Prometheus, under the names of TF Serving, so that one dashboard shows both."""

from __future__ import annotations

from typing import Any

import prometheus_client
from prometheus_client import exposition, process_collector

_PREFIX = ":tensorflow:serving:"
# Microseconds from 10 on, 33 buckets each 1.8 times the one before, as TF Serving's.
_BUCKETS = [10 * 1.8**power for power in range(33)]


class _Counter(prometheus_client.Gauge):
    """A counter without the ending `_total`, which TF Serving's lack."""

    _type = "counter"


class Metrics:
    """What is counted. The names of models are those being served, as clients may send any."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # TF Serving's have none
        self._registry = prometheus_client.CollectorRegistry()
        process_collector.ProcessCollector(registry=self._registry)
        self._requests = _Counter(
            f"{_PREFIX}request_count",
            "The total number of requests.",
            ["model_name", "status"],
            registry=self._registry,
        )
        self._latency = prometheus_client.Histogram(
            f"{_PREFIX}request_latency",
            "Distribution of wall time (in microseconds) of a request.",
            ["model_name", "API", "entrypoint"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._runtime = prometheus_client.Histogram(
            f"{_PREFIX}runtime_latency",
            "Distribution of wall time (in microseconds) of a call of the model, which answers one or more requests.",
            ["model_name", "API", "runtime"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._queuing = prometheus_client.Histogram(
            f"{_PREFIX}batching_session:queuing_latency",
            "Distribution of wall time (in microseconds) that a request waits for the call that answers it.",
            ["thread_pool_name"],
            buckets=_BUCKETS,
            registry=self._registry,
        ).labels("batch_threads")
        self._gauges = {
            name: prometheus_client.Gauge(f"seqrec_{name}", text, registry=self._registry)
            for name, text in {
                "queued_rows": "Rows that wait for a model.",
                "connections": "Open connections.",
                "unlogged_requests": "Requests that --log-requests has left out, as the disk was too slow.",
            }.items()
        }
        self._series: dict[tuple[str, ...], Any] = {}

    def observe_request(self, model: str, api: str, entrypoint: str, status: str, microseconds: float) -> None:
        """Count an answer."""
        key = (model, api, entrypoint, status)
        series = self._series.get(key)
        if series is None:  # `labels` costs more than the counting
            series = self._requests.labels(model, status), self._latency.labels(model, api, entrypoint)
            self._series[key] = series
        series[0].inc()
        series[1].observe(microseconds)

    def observe_run(self, model: str, microseconds: float) -> None:
        """Count a call of a model."""
        self._runtime.labels(model, "Predict", "TF1").observe(microseconds)

    def observe_wait(self, microseconds: float) -> None:
        """Count the wait of a request for the call that answers it."""
        self._queuing.observe(microseconds)

    def gauge(self, name: str, read: Any) -> None:
        """Give a gauge the function that reads it."""
        self._gauges[name].set_function(read)

    def page(self) -> bytes:
        """All figures in Prometheus' text format."""
        text = exposition.generate_latest(self._registry)
        return text.replace(f"{_PREFIX}request_count_total".encode(), f"{_PREFIX}request_count".encode())
