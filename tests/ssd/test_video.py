"""Frames of videos through each decoder, their rotation and times, drawn videos, and streams."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import ssd
from ssd.data import DataError
from ssd.inference import video, video_writer
from ssd.inference.detector import Detector
from ssd.inference.video import frames_of, is_usable

av = pytest.importorskip("av")
HEIGHT, WIDTH, COUNT = 48, 64, 12


def frame(index: int) -> np.ndarray:
    """Returns a frame with a red corner and a bar that encodes its number."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:16, :16] = (255, 0, 0)
    image[32:, 4 * index : 4 * index + 4] = (0, 255, 0)
    return image


def encode(path: Path, *, rotated: bool = False, step: float = 0.1) -> Path:
    """Writes COUNT frames; with `rotated` the metadata says to rotate them by 90 degrees, as a phone held upright does."""
    writer = video_writer.VideoWriter(path)
    for index in range(COUNT):
        writer.write(frame(index), index * step)
    writer.close()
    if rotated:
        data = bytearray(path.read_bytes())
        start = data.index(b"tkhd") + 44  # the matrix of the track header
        one = 1 << 16
        data[start : start + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, HEIGHT * one, 0, 1 << 30)
        path.write_bytes(data)
    return path


@pytest.fixture(params=list(video.DECODERS))
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each decoder that is installed, alone."""
    if not is_usable(request.param):
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setattr(video, "DECODERS", {request.param: video.DECODERS[request.param]})
    return str(request.param)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(1)
    model = ssd.build_model("ssd_tiny", 3, image_size=64, width=4, levels=2).eval()
    return Detector(model, ("disc", "star"), dtype=torch.float32)


def bar(image: Tensor) -> int:
    """Returns the number of an upright frame that its bar encodes."""
    return int(image[1, 40].float().view(-1, 4).mean(1).argmax())


def test_video_frames_are_in_order_with_times(decoder: str, tmp_path: Path) -> None:
    frames = list(frames_of(encode(tmp_path / "a.mp4", step=0.04)))
    assert [f.index for f in frames] == list(range(COUNT)) and [bar(f.image) for f in frames] == list(range(COUNT))
    assert [round(f.time, 3) for f in frames] == [round(0.04 * index, 3) for index in range(COUNT)]
    assert frames[0].image.dtype == torch.uint8 and frames[0].image.shape == (3, HEIGHT, WIDTH)
    assert frames[0].image[0, 4, 4] > 200 > 50 > frames[0].image[1, 4, 4]  # red: RGB order


def test_video_rotation_is_applied(decoder: str, tmp_path: Path) -> None:
    upright = next(frames_of(encode(tmp_path / "a.mp4"))).image
    rotated = next(frames_of(encode(tmp_path / "b.mp4", rotated=True))).image
    assert rotated.shape == (3, WIDTH, HEIGHT)
    assert torch.equal(rotated, torch.rot90(upright, -1, (1, 2)))  # clockwise


def test_invalid_video_error_names_file(decoder: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 100)
    (tmp_path / "empty.mp4").touch()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(encode(tmp_path / "b.mp4").read_bytes()[:700])
    for name, words in (("a", "cannot be opened|cannot open"), ("empty", "is empty"), ("gone", "does not exist")):
        with pytest.raises(DataError, match=words):
            list(frames_of(tmp_path / f"{name}.mp4"))
    with pytest.raises(DataError, match="cannot"):
        list(frames_of(cut))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_video_that_is_cut_off_is_an_error_after_its_frames(decoder: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with av.open(
        path, "w", options={"movflags": "faststart"} if name == "a.mp4" else {}
    ) as container:  # the index is in front
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(index))))
        container.mux(stream.encode())
    assert len(list(frames_of(path))) == COUNT
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    frames = frames_of(path)
    assert bar(next(frames).image) == 0
    with pytest.raises(DataError, match=r"ends after \d\.\d of 6\.0 seconds: the file is cut off or damaged"):
        list(frames)


@pytest.mark.parametrize("source", [63, "/dev/video63", "rtsp://user:secret@127.0.0.1:1/x"])
def test_missing_camera_or_stream_error_names_it(source: str | int, detector: Detector) -> None:
    with pytest.raises(DataError, match=r"^(/dev/video63|rtsp://127.0.0.1:1/x): the stream cannot be opened: \w+"):
        list(detector.predict(source))  # type: ignore[arg-type]


def test_missing_decoder_error_names_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    monkeypatch.setattr(video, "DECODERS", {"no_such_package": None})
    with pytest.raises(DataError, match=r"reading a video needs PyAV, OpenCV .*: pip install av"):
        next(frames_of(path))


def test_detector_yields_results_of_frames(detector: Detector, tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    results = detector.predict(path, score_threshold=0.3, batch_size=5)
    assert isinstance(results, Iterator)
    found = list(results)
    assert [(r.file, r.frame, round(r.time or 0, 3)) for r in found] == [
        (path, i, round(0.1 * i, 3)) for i in range(COUNT)
    ]
    one = detector.predict(found[3].image, score_threshold=0.3)
    torch.testing.assert_close(found[3].boxes, one.boxes, rtol=0, atol=1e-3)  # type: ignore[union-attr]
    assert found[3].to_dict()["frame"] == 3 and found[3].to_dict()["time"] == 0.3 and "frame 3" in repr(found[3])


def test_video_is_decoded_lazily(detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = video.DECODERS["av"]

    def counting(name: str) -> Iterator[tuple[Tensor, float]]:
        for item in decode(name):
            decoded.append(1)
            yield item

    monkeypatch.setattr(video, "DECODERS", {"av": counting})
    next(iter(detector.stream(encode(tmp_path / "a.mp4"), batch_size=2)))
    assert len(decoded) <= 4


def test_broken_video_does_not_end_stream(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    (tmp_path / "b.png").write_bytes(b"not an image")
    encode(tmp_path / "c.mp4")
    results = list(detector.stream(tmp_path))
    assert [result.error is None for result in results] == [False, False, *[True] * COUNT]
    with pytest.raises(DataError, match=r"a\.mp4: the video cannot be opened"):
        list(detector.predict(tmp_path / "a.mp4"))


def test_video_url_is_read_to_end(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.mp4"
        frames = list(frames_of(url))
        server.shutdown()
    assert [bar(f.image) for f in frames] == list(range(COUNT)) and frames[0].file == url


def test_slow_camera_reader_gets_newest_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    def camera(name: str) -> Iterator[tuple[Tensor, float]]:
        for index in range(40):
            yield torch.full((3, 2, 2), index, dtype=torch.uint8), index / 100
            time.sleep(0.005)
        raise OSError("unplugged")

    monkeypatch.setattr(video, "DECODERS", {"av": camera})
    numbers = []
    with pytest.raises(DataError, match=r"cannot be read after frame .*unplugged"):
        for item in frames_of(0):
            numbers.append(int(item.image[0, 0, 0]))
            time.sleep(0.05)
    assert numbers == sorted(set(numbers)) and numbers[-1] == 39 and len(numbers) < 20


@pytest.mark.parametrize("encoder", list(video_writer.ENCODERS))
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_written_video_has_frames_and_times(
    encoder: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_usable(encoder):
        pytest.skip(f"{encoder} is not installed")
    monkeypatch.setattr(video_writer, "ENCODERS", {encoder: video_writer.ENCODERS[encoder]})
    writer = video_writer.VideoWriter(tmp_path / "a.mp4")
    times = [2.0 + 0.05 * index for index in range(5)]
    for index, at in enumerate(times):
        writer.write(frame(index)[: size[0], : size[1]], at)
    assert not (tmp_path / "a.mp4").exists()
    writer.close()
    frames = list(frames_of(tmp_path / "a.mp4"))
    assert [bar(f.image) for f in frames] == list(range(5)) and frames[0].image.shape == (3, 48, 64)
    assert [round(f.time, 3) for f in frames] == [round(at - 2.0, 3) for at in times]
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
