"""Output folder of `ssd predict`: drawn images and videos, and the parts from which the other files are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssd.common.errors import DataError
from ssd.inference.formats import drawing_name, write_formats
from ssd.inference.parts import Part, drawings, entries, finished_files, has_parts, remove_parts
from ssd.inference.result import Result
from ssd.inference.video_writer import VideoWriter


class Output:
    """Writes results into a folder one by one; the last process to `close` writes detections.json and the formats.

    Drawn images and videos go into the folder as they are found. See `write_formats` for the other files.

    Args:
        folder: Output folder.
        formats: Any of images, csv, coco, yolo and voc.
        classes: Class names without the background.
        total: Number of source files, for the width of the number in names of drawn images.
        rank: Rank of this process.
        size: Number of processes.
        resume: Whether to keep the results of a stopped command; else those of a previous one are removed.
        settings: Settings that the results depend on, see `Part`.
    """

    def __init__(
        self,
        folder: Path,
        formats: Sequence[str],
        classes: Sequence[str],
        total: int,
        *,
        rank: int = 0,
        size: int = 1,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            remove_results(folder)
        self.folder = folder
        self.formats = formats
        self.classes = list(classes)
        self.images = self.objects = self.failed = 0
        self._total = total
        self._size = size
        self._part = Part(folder, rank, size, settings or {})
        self.finished = finished_files(folder)
        self._video: VideoWriter | None = None

    def add(self, number: int, result: Result) -> str | None:
        """Writes a result.

        Args:
            number: Position of its file in the list of sources, from 1.
            result: Result of an image, or of a frame of the video of this number.

        Returns:
            An error message if the image could not be read or drawn, else None.
        """
        error = result.error
        if error is None:
            entry = result.to_dict()
            if "images" in self.formats:
                path = self.folder / drawing_name(number, self._total, result.file, result.frame is not None)
                error = self._draw(result, path)
                entry |= {} if error else {"picture": path.name}
            self._part.add(number, {"file": "", **entry})
            self.images += 1
            self.objects += len(entry["detections"])
        self.failed += error is not None
        return error

    def end(self, number: int, file: str, complete: bool) -> None:
        """Completes a video or tar file; `complete` says whether it was read to its end without an error."""
        if self._video is not None:
            self._video.close()
            self._video = None
        if complete:
            self._part.end(number, file)

    def close(self, complete: bool) -> tuple[int, int, int] | None:
        """Writes detections.json and the formats if this is the last process, or the only one.

        Args:
            complete: Whether all sources have been processed; else the parts are kept for resuming.

        Returns:
            Numbers of images and objects of all processes, and of images that failed; None if others are not done.
        """
        if self._video is not None:
            self._video.close()
        failed: int | None = self.failed
        if complete:
            failed = self._part.finish(self.failed)
        else:
            self._part.close()
        if failed is None or (not complete and self._size > 1):
            return None
        counts = write_formats(self.folder, self.formats, self.classes, lambda: entries(self.folder))
        if complete and self._size == 1:
            remove_parts(self.folder)
        return (*counts, failed)

    def _draw(self, result: Result, path: Path) -> str | None:
        options: dict[str, Any] = {"quality": 90} if path.suffix == ".jpg" else {"compress_level": 3}
        try:
            if result.frame is None:
                result.plot().save(path, **options)
            else:
                self._video = self._video or VideoWriter(path)
                self._video.write(np.asarray(result.plot()), result.time or 0.0)
        except (OSError, ValueError) as error:  # the disk is full, or the image exceeds JPEG's 65,500 pixels per side
            if isinstance(error, DataError):
                raise
            path.unlink(missing_ok=True)
            return f"image {path} cannot be written: {getattr(error, 'strerror', None) or error}"
        return None


def remove_results(folder: Path) -> None:
    """Removes the results of a previous command from a folder, and nothing else."""
    file = folder / "detections.json"
    try:
        drawn = drawings(folder)
    except ValueError:
        return  # they are of another program
    if not file.exists() and not has_parts(folder):
        return
    for name in drawn:
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)
    for pattern in ("detections.csv", "coco.json", "yolo/data.yaml", "yolo/labels/*.txt", "voc/Annotations/*.xml"):
        for path in folder.glob(pattern):
            path.unlink()
    remove_parts(folder)
    file.unlink(missing_ok=True)
