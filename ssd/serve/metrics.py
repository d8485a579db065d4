"""Metrics of the server in Prometheus format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from ssd.serve.batching import Job

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one server.

    Args:
        waiting: Returns the number of images that wait for a result.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("ssd_requests", "Answered requests", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "ssd_request_seconds", "Time of detection requests", buckets=_SECONDS, registry=registry
        )
        self.images = Counter("ssd_images", "Images by outcome", ["model", "outcome"], registry=registry)
        self._stages = Histogram(
            "ssd_stage_seconds", "Time of an image in each stage", ["stage"], buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram(
            "ssd_batch_images", "Images of a batch", ["model"], buckets=_IMAGES, registry=registry
        )
        gauge = Gauge("ssd_waiting_images", "Images that wait for a result", registry=registry)
        gauge.set_function(waiting)

    def observe_batch(self, jobs: list[Job]) -> None:
        """Counts a batch that ran."""
        self._batches.labels(jobs[0].model.name).observe(len(jobs))
        for job in jobs:
            for stage, milliseconds in job.times.items():
                self._stages.labels(stage).observe(milliseconds / 1e3)

    def text(self) -> bytes:
        """Returns all metrics as text."""
        return generate_latest(self._registry)
