"""Loaders end although a worker process was killed with a lock that the others wait for, and when the program ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ssd.data import COCODataset, build_loader
from ssd.data.loading.workers import WatchedDataLoader, start_method, start_worker
from ssd.engine.error_messages import as_user_error
from ssd.transforms import build_transforms
from tests.ssd.small_folders import write_coco

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")


def test_loader_ends_although_a_killed_worker_held_a_lock() -> None:
    loader = WatchedDataLoader(
        range(10_000),  # type: ignore[arg-type]
        num_workers=2,
        collate_fn=list,
        worker_init_fn=start_worker,
        multiprocessing_context=start_method(),
    )
    iterator: Any = iter(loader)
    next(iterator)

    def die_with_the_lock() -> None:
        iterator._workers_done_event._cond.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=die_with_the_lock)
    process.start()
    process.join()
    workers = list(iterator._workers)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        os.kill(workers[0].pid, signal.SIGKILL)
        for _ in iterator:
            pass
    ending = threading.Thread(target=iterator._shutdown_workers, daemon=True)
    ending.start()
    ending.join(20)
    ended = not ending.is_alive() and not any(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.kill()
    assert ended


class DeadlyImages(COCODataset):
    """Kills the worker that reads the second image."""

    def __getitem__(self, index: int) -> Any:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.parametrize("deadly", [True, False])
def test_killed_worker_is_reported_with_the_image_it_read(tmp_path: Path, deadly: bool) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in range(4)]
    root = write_coco(tmp_path, [{"id": 1, "image_id": 0, "category_id": 44, "bbox": [1, 1, 9, 9]}], images)
    dataset = (DeadlyImages if deadly else COCODataset)(root, "train")
    loader = build_loader(dataset, build_transforms("none", 32, train=False), 4, train=False, workers=1)
    with pytest.raises(RuntimeError) as raised, loader.naming_lost_images():
        for _ in loader:
            raise RuntimeError("of the program")
    if not deadly:
        assert str(raised.value) == "of the program"
        return
    said = str(as_user_error(raised.value))
    assert said.startswith("a data loading worker exited, usually because it ran out of memory: use fewer --workers. ")
    assert said.endswith(f" The last image that it began to read: {dataset.annotations.files[1]}") and "\n" not in said


_PROGRAM = """
from ssd.data.loading.workers import WatchedDataLoader, start_method, start_worker

loader = WatchedDataLoader(
    range(10_000),
    num_workers=2,
    collate_fn=list,
    worker_init_fn=start_worker,
    multiprocessing_context=start_method(),
    persistent_workers=True,
)
for _ in loader:
    raise SystemExit(3)
"""


def test_program_ends_although_its_loader_is_alive() -> None:
    # As after an error, whose traceback keeps the loader.
    assert subprocess.run([sys.executable, "-c", _PROGRAM], timeout=120).returncode == 3
