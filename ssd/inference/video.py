"""Frames of video files, cameras and network streams, decoded by torchcodec, PyAV or OpenCV, whichever is installed."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.common.errors import DataError
from ssd.data.loading.images import check_file
from ssd.inference.source_files import is_live, public_name, stream_name

_MAX_BYTES = 1 << 50  # size of a file
_OPEN_SECONDS = 20.0  # time limit of a network stream to answer


@dataclass(frozen=True)
class Frame:
    """A frame of a video, rotated upright as the video's metadata says.

    Attributes:
        image: uint8 RGB `[3, H, W]`.
        file: File of the video; for a stream, its name as a string, without a password.
        index: Number of the frame, 0 for the first one read.
        time: Presentation time in seconds.
    """

    image: Tensor  # [3, H, W]
    file: Path | str
    index: int
    time: float


def frames_of(source: str | os.PathLike[str] | int) -> Iterator[Frame]:
    """Yields the frames of a video one by one; memory does not grow with its length.

    From a camera or a live stream, the newest frame is read each time, so that a slow reader skips frames instead of
    falling behind.

    Args:
        source: A video file, the number of a camera, /dev/videoN, or a URL such as rtsp://host/path.

    Raises:
        DataError: The video cannot be opened, has no frames, or a frame cannot be decoded; or no decoder is installed.
    """
    stream = stream_name(source)
    if stream is None:
        check_file(str(source), _MAX_BYTES)
    name = stream or str(source)
    file = Path(name) if stream is None else public_name(name)
    images = _decoder(stream is not None)(name)
    count = 0
    try:
        for image, time in _newest(images) if is_live(name) else images:
            yield Frame(image, file, count, time)
            count += 1
    except DataError:
        raise
    except Exception as error:  # each decoder has exceptions of its own
        what = f"{'stream' if stream else 'video'} cannot be {f'read after frame {count - 1}' if count else 'opened'}"
        raise DataError(f"the {what}: {_reason(error)}") from None
    if not count:
        raise DataError("the video has no frames")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or re.sub(r"^.*\.cpp:\d+, ", "", str(error))  # torchcodec names its code
    return text.strip() or type(error).__name__


_Images = Iterator[tuple[Tensor, float]]  # images with their times in seconds


def _decoder(stream: bool) -> Callable[[str], _Images]:
    for package, decode in DECODERS.items():
        if not (stream and package == "torchcodec") and is_usable(package):
            return decode
    raise DataError("reading a video needs PyAV, OpenCV or (files only) torchcodec: pip install av")


def is_usable(package: str) -> bool:
    """Returns whether a package can be imported with the libraries that it needs."""
    try:
        import_module(package)
    except (ImportError, OSError, RuntimeError):  # torchcodec: RuntimeError without FFmpeg
        return False
    return True


def _check_end(end: float, duration: float | None) -> None:
    """Raises DataError if a video ends much earlier, in seconds, than its header says: decoders do not report that."""
    if duration is not None and end < 0.9 * duration - 0.5:  # some headers are estimates
        raise DataError(f"the video ends after {end:.1f} of {duration:.1f} seconds: the file is cut off or damaged")


def _with_torchcodec(name: str) -> _Images:
    decoder: Any = import_module("torchcodec.decoders").VideoDecoder(name, num_ffmpeg_threads=0)
    end = 0.0
    for index in range(len(decoder)):
        frame = decoder.get_frame_at(index)
        end = float(frame.pts_seconds + frame.duration_seconds)
        yield frame.data, float(frame.pts_seconds)
    _check_end(end, decoder.metadata.duration_seconds_from_header)


def _with_pyav(name: str) -> _Images:
    av: Any = import_module("av")
    camera = {"format": "v4l2"} if name.startswith("/dev/") else {}
    options = {"rtsp_transport": "tcp"} if name.startswith("rtsp") else {}
    with av.open(name, options=options, timeout=_OPEN_SECONDS, **camera) as container:
        if not container.streams.video:
            raise DataError("the file has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        end = 0.0
        for frame in container.decode(stream):
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            end = float(frame.time or 0) + float((frame.duration or 0) * (frame.time_base or 0))
            yield torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1), float(frame.time or 0)
        if stream.duration is not None:
            _check_end(end, float(stream.duration * stream.time_base))
        elif container.duration is not None and len(container.streams) == 1:  # of Matroska: that of the longest stream
            _check_end(end, container.duration / av.time_base)


def _with_opencv(name: str) -> _Images:
    cv2: Any = import_module("cv2")
    capture = cv2.VideoCapture(int(name.removeprefix("/dev/video")) if name.startswith("/dev/") else name)
    try:
        if not capture.isOpened():
            raise DataError(f"OpenCV cannot open {'it' if name.startswith('/dev/') else 'or decode it'}")
        rate, frames, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT), 0
        while True:
            found, pixels = capture.read()
            if not found:
                if rate > 0 and frames > 0:
                    _check_end(count / rate, frames / rate)
                return
            count += 1
            rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            yield torch.from_numpy(rgb).permute(2, 0, 1), capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    finally:
        capture.release()


# In order of preference; tests choose one.
DECODERS: dict[str, Callable[[str], _Images]] = {
    "torchcodec": _with_torchcodec,
    "av": _with_pyav,
    "cv2": _with_opencv,
}


def _newest(images: _Images) -> _Images:
    """Yields the newest item each time; a thread reads them all."""
    changed = threading.Condition()
    latest: list[tuple[Tensor, float]] = []
    state: dict[str, Any] = {"ended": False, "error": None}

    def run() -> None:
        error = None
        try:
            for item in images:
                with changed:
                    latest[:] = [item]
                    changed.notify()
                    if state["ended"]:
                        break
        except Exception as caught:  # raised where the frames are used
            error = caught
        with changed:
            state.update(ended=True, error=error)
            changed.notify()

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: latest or state["ended"])
                if not latest:
                    break
                item = latest.pop()
            yield item
    finally:
        with changed:
            state["ended"] = True
    if state["error"] is not None:
        raise state["error"]
