"""Detection on the images of requests: decoding on a few threads, then batches on the thread of the models."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from starlette.requests import Request

from ssd.common.errors import DataError, unknown
from ssd.inference.detector import Detector
from ssd.serve.batching import Batcher, Job
from ssd.serve.decoding import decode
from ssd.serve.metrics import Metrics
from ssd.serve.request import Options, RequestError
from ssd.serve.served_model import Output, Rules, ServedModel
from ssd.serve.settings import Settings

_LOG = logging.getLogger("ssd.serve")
_FAILED = "detection failed; the log of the server has the reason"
_DISCONNECT_INTERVAL = 0.5  # seconds between checks whether the client is still there


class Service:
    """The models of a server and the threads that run them.

    Args:
        detectors: Trained models by name; the first one is the default.
        settings: Batching and limits.
    """

    def __init__(self, detectors: Mapping[str, Detector], settings: Settings) -> None:
        self.settings = settings
        self.models = {
            name: ServedModel(name, detector, settings.max_candidates) for name, detector in detectors.items()
        }
        self.waiting = 0  # images of requests that are not answered yet
        self.metrics = Metrics(lambda: self.waiting)
        self.batcher = Batcher(settings.batch_size, settings.batch_window, self.metrics.observe_batch)
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="ssd-serve-decode")

    def start(self) -> None:
        """Starts the threads and runs each model once, since the first run is slow."""
        self.batcher.start()
        for model in self.models.values():
            job = Job(model, Rules(), b"", torch.zeros(3, 32, 32, dtype=torch.uint8))
            self.batcher.submit(job)
            job.future.result()

    def close(self) -> None:
        """Ends the threads, after the images that are queued."""
        self._decoders.shutdown(cancel_futures=True)
        self.batcher.close()

    async def detect(self, request: Request, contents: Sequence[bytes | str], options: Options) -> dict[str, Any]:
        """Detects objects in the images of a request.

        Args:
            request: The request, to see whether its client is still there.
            contents: Image files, as bytes or base64.
            options: Options of the request.

        Returns:
            The response. An image that cannot be read has an `error` instead of detections.

        Raises:
            RequestError: An option is invalid, too many images wait, or time is up.
        """
        start = time.perf_counter()
        model = self._model(options)
        count = len(contents)
        if self.waiting + count > self.settings.max_waiting:
            raise RequestError(503, f"{self.waiting} images are waiting already; try again later")
        jobs = [Job(model, options.rules(), content) for content in contents]
        self.waiting += count
        try:
            for job in jobs:
                self._decoders.submit(self._decode, job)
            outcomes = await self._outcomes(request, jobs)
        finally:
            self.waiting -= count
            for job in jobs:
                job.future.cancel()
        results = [self._entry(job, outcome, options) for job, outcome in zip(jobs, outcomes, strict=True)]
        seconds = time.perf_counter() - start
        self.metrics.seconds.observe(seconds)
        return {"model": model.name, "results": results, "total_ms": round(1e3 * seconds, 3)}

    @staticmethod
    def status(results: Sequence[Mapping[str, Any]]) -> int:
        """Returns the HTTP status of a response: 200 if any image has a result."""
        errors = [result.get("error") for result in results]
        return 200 if None in errors else 500 if _FAILED in errors else 422

    def _model(self, options: Options) -> ServedModel:
        model = next(iter(self.models.values())) if options.model is None else self.models.get(options.model)
        if model is None:
            raise RequestError(422, unknown("model", str(options.model)[:100], self.models))
        for name in options.classes or ():
            if name not in model.detector.classes:
                raise RequestError(422, f"classes: {unknown('class', name[:100], model.detector.classes)}")
        return model

    def _decode(self, job: Job) -> None:
        """Decodes an image and queues it; runs on a thread of the pool."""
        if job.future.cancelled():
            return
        start = time.perf_counter()
        try:
            image = decode(job.content, self.settings.max_pixels, job.model.detector.apply_exif)
            job.size = (image.shape[1], image.shape[2])
            job.image = job.model.engine.reduced(image)
        except Exception as error:
            if not isinstance(error, DataError):
                _LOG.exception("decoding failed")
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
            return
        finally:
            job.content = b""
        job.times["decode"] = 1e3 * (time.perf_counter() - start)
        self.batcher.submit(job)

    async def _outcomes(self, request: Request, jobs: Sequence[Job]) -> list[Output | BaseException]:
        """Waits for all jobs, until time is up or the client is gone."""
        futures = [asyncio.wrap_future(job.future) for job in jobs]
        deadline = time.monotonic() + self.settings.timeout
        pending: set[asyncio.Future[Output]] = set(futures)
        while pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise RequestError(504, f"no result within {self.settings.timeout:g} seconds")
            _, pending = await asyncio.wait(pending, timeout=min(left, _DISCONNECT_INTERVAL))
            if pending and await request.is_disconnected():
                raise RequestError(499, "the client closed the connection")
        return await asyncio.gather(*futures, return_exceptions=True)

    def _entry(self, job: Job, outcome: Output | BaseException, options: Options) -> dict[str, Any]:
        """Returns the entry of one image in the response."""
        self.metrics.images.labels(job.model.name, _name(outcome)).inc()
        if isinstance(outcome, DataError):
            return {"error": str(outcome)}
        if isinstance(outcome, BaseException):
            return {"error": _FAILED}
        if options.candidates:
            entry = job.model.candidates(outcome, job.size)
        else:
            entry = job.model.result(outcome, job.size, options.score_threshold, options.classes)
        times = {f"{stage}_ms": round(time, 3) for stage, time in job.times.items()}
        return {**entry, "times": times, "batch": job.batch}


def _name(outcome: Output | BaseException) -> str:
    if isinstance(outcome, DataError):
        return "unreadable"
    return "failed" if isinstance(outcome, BaseException) else "detected"
