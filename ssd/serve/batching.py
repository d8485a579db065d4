"""Runs images of simultaneous requests in batches, on one thread that owns the models."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from ssd.serve.served_model import Output, Rules, ServedModel

_LOG = logging.getLogger("ssd.serve")


@dataclass(eq=False)
class Job:
    """One image of a request.

    Attributes:
        model: Model to run.
        rules: Post-processing.
        content: Image file, as bytes or base64.
        image: Decoded image uint8 `[3, h, w]`, possibly reduced.
        size: Height and width of the image as sent.
        future: Becomes the output, or an exception.
        times: Milliseconds of each stage.
        batch: Number of images in its batch.
        queued: When it was queued, from `time.perf_counter`.
    """

    model: ServedModel
    rules: Rules
    content: bytes | str
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    future: Future[Output] = field(default_factory=Future)
    times: dict[str, float] = field(default_factory=dict)
    batch: int = 0
    queued: float = 0.0


class Batcher:
    """Collects jobs into batches and runs them.

    Args:
        batch_size: Max images of a batch.
        window: Seconds to wait for more images after the first one, unless a batch is full.
        observe: Called with the jobs of each batch after it ran.
    """

    def __init__(self, batch_size: int, window: float, observe: Callable[[list[Job]], None]) -> None:
        self.batch_size = batch_size
        self.window = window
        self._observe = observe
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="ssd-serve-models", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether jobs are accepted and run."""
        return self._thread.is_alive() and not self._closed

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queues a decoded job; a closed batcher cancels it."""
        job.queued = time.perf_counter()
        with self._changed:
            if not self._closed:
                self._queue.append(job)
                self._changed.notify()
                return
        job.future.cancel()

    def close(self) -> None:
        """Runs the jobs that are queued, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            ready = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if ready:
                self._run(ready)
                self._observe(ready)

    def _take(self) -> list[Job]:
        """Returns the next batch, of one model; empty after `close` when the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return []
            first = self._queue[0]

            def is_full() -> bool:
                return self._closed or sum(job.model is first.model for job in self._queue) >= self.batch_size

            self._changed.wait_for(is_full, max(0.0, first.queued + self.window - time.perf_counter()))
            batch = [job for job in self._queue if job.model is first.model][: self.batch_size]
            taken = set(map(id, batch))
            self._queue = deque(job for job in self._queue if id(job) not in taken)
            return batch

    def _run(self, jobs: list[Job]) -> None:
        start = time.perf_counter()
        try:
            outputs, network, post = jobs[0].model.detect([job.image for job in jobs], [job.rules for job in jobs])  # type: ignore[misc]
        except Exception as error:
            if len(jobs) > 1:  # one of them may be the cause
                for job in jobs:
                    self._run([job])
                return
            _LOG.exception("detection failed")
            jobs[0].future.set_exception(error)
            return
        for job, output in zip(jobs, outputs, strict=True):
            job.batch = len(jobs)
            job.times["queue"] = 1e3 * (start - job.queued)
            job.times["network"], job.times["post_process"] = 1e3 * network, 1e3 * post
            job.image = None
            job.future.set_result(output)
