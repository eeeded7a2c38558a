"""Metrics of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from robustbench_local.serving.drift import DriftMonitor
from robustbench_local.serving.prediction import Answer

LATENCY_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServingMetrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: dict[str, Any] = {"registry": self.registry}
        self.request_seconds = Histogram(
            "rbl_request_seconds",
            "Time from the first byte of a request to the last byte of its response.",
            ["route", "status"],
            buckets=LATENCY_BUCKETS_SECONDS,
            **own,
        )
        self.requests_in_progress = Gauge(
            "rbl_requests_in_progress", "Requests that are being answered.", **own
        )
        self.images = Counter("rbl_images", "Images that were classified.", ["model"], **own)
        self.batch_images = Histogram(
            "rbl_batch_images",
            "Images in a pass of the model.",
            ["model"],
            buckets=BATCH_BUCKETS,
            **own,
        )
        self.predictions = Counter("rbl_predictions", "Predictions by class.", ["model", "class"], **own)
        self.confidence = Histogram(
            "rbl_confidence",
            "Probability of the predicted class.",
            ["model"],
            buckets=CONFIDENCE_BUCKETS,
            **own,
        )
        self.rejections = Counter("rbl_rejections", "Images that the model rejected.", ["model"], **own)
        self.analyses = Counter("rbl_analyses", "Attacks and certificates.", ["kind", "outcome"], **own)
        self.out_of_range = Counter(
            "rbl_out_of_range_images",
            "Images whose statistic lies outside that of every reference image.",
            ["statistic"],
            **own,
        )
        self.enlarged = Counter(
            "rbl_enlarged_images",
            "Images with fewer pixels on a side than the model takes.",
            **own,
        )

    def track_queue(self, model: str, count_waiting: Callable[[], int]) -> None:
        """Show the number of images that wait for a model."""
        name, text = "rbl_queue_images", "Images that wait for the model."
        if not hasattr(self, "_queue"):
            self._queue = Gauge(name, text, ["model"], registry=self.registry)
        self._queue.labels(model).set_function(count_waiting)

    def track_drift(self, monitor: DriftMonitor) -> None:
        """Show the tests of drift."""
        gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
            (
                "rbl_drift_p_value",
                "Corrected p-value of the latest window of images.",
                lambda: 1.0 if monitor.latest is None else monitor.latest.p_value,
            ),
            (
                "rbl_drift_alarm",
                "1 if the latest window of images differs from the reference.",
                lambda: float(monitor.latest is not None and monitor.latest.is_alarm),
            ),
            ("rbl_drift_windows", "Windows that were tested.", lambda: float(monitor.window_count)),
            ("rbl_drift_alarms", "Windows that differ.", lambda: float(monitor.alarm_count)),
        )
        for name, text, read in gauges:
            Gauge(name, text, registry=self.registry).set_function(read)

    def observe_answers(self, model: str, names: Sequence[str], answers: Sequence[Answer]) -> None:
        """Count the answers of a model."""
        self.images.labels(model).inc(len(answers))
        for answer in answers:
            if answer.is_rejected:
                self.rejections.labels(model).inc()
            if answer.class_index is not None:
                self.predictions.labels(model, names[answer.class_index]).inc()
            if answer.confidence is not None:
                self.confidence.labels(model).observe(answer.confidence)

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
