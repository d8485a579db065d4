"""Writing of videos with drawn detections, through PyAV or OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ssd.common.errors import DataError
from ssd.inference.video import is_usable

_TICKS = 90_000  # ticks per second of a video's clock
_DEFAULT_RATE = 25.0  # frames per second of a video with one frame


class VideoWriter:
    """Writes an MP4 file without sound; it has its name when `close` has completed it.

    PyAV keeps the time of each frame; OpenCV gives all frames the rate of the first two.

    Args:
        path: File to write.

    Raises:
        DataError: Neither PyAV nor OpenCV is installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f"{path.stem}.part{path.suffix}")
        self._open = next((opened for package, opened in ENCODERS.items() if is_usable(package)), None)
        if self._open is None:
            raise DataError("drawing a video needs PyAV or OpenCV: pip install av; or use --no-pictures")
        self._first: tuple[np.ndarray, float] | None = (
            None  # waits for the second frame, which determines the frame rate
        )
        self._file: Any = None
        self._size = (0, 0)
        self._start = 0.0

    def write(self, image: np.ndarray, time: float) -> None:
        """Appends a frame.

        Args:
            image: uint8 RGB `[H, W, 3]`; a frame of another size than the first one is cropped or padded to it.
            time: Presentation time in seconds.
        """
        if self._first is None and self._file is None:
            self._first = (image, time)
            return
        if self._first is not None:
            self._begin(time)
        self._file.write(_fitted(image, self._size), time - self._start)

    def close(self) -> None:
        """Completes the file; no frames make no file."""
        if self._first is not None:
            self._begin(self._first[1] + 1 / _DEFAULT_RATE)
        if self._file is not None:
            self._file.close()
            self._file = None
            self._part.replace(self.path)

    def _begin(self, second: float) -> None:
        assert self._first is not None and self._open is not None
        image, self._start = self._first
        self._first = None
        # H.264 stores colors at half the resolution, so sides must be even.
        self._size = tuple(side + side % 2 for side in image.shape[:2])
        rate = 1 / (second - self._start) if second > self._start else _DEFAULT_RATE
        self._file = self._open(self._part, self._size, rate)
        self._file.write(_fitted(image, self._size), 0.0)


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = image[: size[0], : size[1]]
    missing = [(0, side - own) for side, own in zip(size, image.shape[:2], strict=True)]
    return np.pad(image, [*missing, (0, 0)], mode="edge")


class _PyAVFile:
    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        self._av: Any = import_module("av")
        self._container = self._av.open(str(path), "w")
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self._time_base = Fraction(1, _TICKS)
        self._pts = -1

    def write(self, image: np.ndarray, time: float) -> None:
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        self._pts = max(self._pts + 1, round(time * _TICKS))  # times must ascend
        frame.pts, frame.time_base = self._pts, self._time_base
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


class _OpenCVFile:
    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        cv2: Any = import_module("cv2")
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size[::-1])
        if not self._writer.isOpened():
            raise DataError(f"OpenCV cannot write {path}")

    def write(self, image: np.ndarray, time: float) -> None:
        self._writer.write(np.ascontiguousarray(image[:, :, ::-1]))

    def close(self) -> None:
        self._writer.release()


# In order of preference; tests choose one.
ENCODERS: dict[str, Callable[[Path, tuple[int, int], float], Any]] = {"av": _PyAVFile, "cv2": _OpenCVFile}
