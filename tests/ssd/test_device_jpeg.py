"""Tests JPEG decoding in the training process: with the CPU's decoder, batches equal those of workers that decode."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import device_decoding
from ssd.common.errors import ConfigError
from ssd.config import TrainConfig, check_settings
from ssd.data import Batch, DataError, DetectionDataset, PackedImages, build_loader, open_dataset, read_image
from ssd.data.loading.device_decoder import DeviceDecoder
from ssd.data.loading.encoded_images import EncodedImage
from ssd.data.loading.images import decode_jpegs
from ssd.data.loading.jpeg_header import is_plain_jpeg
from ssd.engine import preparation
from ssd.engine.distributed import World
from ssd.engine.loop import run
from ssd.engine.run_folder import RunFolder
from ssd.transforms import build_transforms
from tests.ssd.small_folders import write_coco
from tests.ssd.test_training import SMALL

CPU = torch.device("cpu")
SIDE = 32
FILES: dict[str, dict[str, Any]] = {
    **{f"exif{n}": {"orientation": n} for n in range(1, 9)},
    "full": {"subsampling": 0, "size": (61, 43)},
    "half": {"subsampling": 1, "size": (33, 47)},
    "quarter": {"subsampling": 2, "size": (17, 15)},
    "large": {"size": (300, 240)},  # a crop of it is resized before it is rendered
    "progressive": {"progressive": True},
    "gray": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "png": {"format": "png"},
}
PLAIN = 12  # of these files


def smooth(width: int, height: int) -> Image.Image:
    """Returns an image of noise with soft edges, as photographs have."""
    noise = np.random.default_rng(width).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encode(
    size: tuple[int, int] = (60, 40), mode: str = "RGB", orientation: int = 1, format: str = "jpeg", **options: Any
) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    smooth(*size).convert(mode).save(file, format, exif=exif, **({"quality": 90} | options))
    return file.getvalue()


def write_files(folder: Path, contents: dict[str, bytes]) -> DetectionDataset:
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (name, content) in enumerate(contents.items(), start=1):
        (folder / "images" / f"{name}.jpg").write_bytes(content)
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if image.getexif().get(0x0112, 1) >= 5:
                width, height = height, width
        images.append({"id": number, "file_name": f"{name}.jpg", "width": width, "height": height, "absent": True})
        box = [2, 3, width // 2, height // 2]
        annotations.append({"id": number, "image_id": number, "bbox": box, "category_id": 1 + 43 * (number % 2)})
    return opened(write_coco(folder, annotations, images))


def opened(folder: Path, **options: Any) -> DetectionDataset:
    dataset = open_dataset("coco", folder / "images", annotations=folder / "instances.json", **options)
    assert isinstance(dataset, DetectionDataset)
    return dataset


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return write_files(tmp_path_factory.mktemp("mixed"), {name: encode(**how) for name, how in FILES.items()})


class Counted:
    """Decodes on the CPU and counts the files; fails on those that begin with a given content."""

    def __init__(self, broken: Sequence[bytes] = ()) -> None:
        self.broken, self.count = broken, 0

    def __call__(self, contents: list[Tensor], device: torch.device) -> list[Tensor]:
        if any(content.numpy().tobytes() in self.broken for content in contents):
            raise RuntimeError("nvJPEG failed")
        self.count += len(contents)
        return decode_jpegs(contents, device)


def batches(
    dataset: DetectionDataset,
    decode: Counted | None,
    name: str = "ssd",
    workers: int = 0,
    start: int = 0,
    **options: Any,
) -> list[Batch]:
    transform = build_transforms(name, SIDE, train=True, deferred=True, **options)
    decoder = None if decode is None else DeviceDecoder(CPU, decode)
    loader = build_loader(dataset, transform, 4, train=True, seed=5, workers=workers, decoder=decoder)
    loader.mix_until(1)
    loader.set_epoch(0, start)
    return [*loader, *loader]  # two epochs


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one.images, PackedImages) and isinstance(other.images, PackedImages)
        assert one.image_ids == other.image_ids and one.images.canvas == other.images.canvas
        for left, right in ((one, other), (one.images, other.images)):
            for field in fields(left):
                value = getattr(left, field.name)
                if isinstance(value, Tensor):
                    assert torch.equal(value, getattr(right, field.name)), field.name


@pytest.mark.parametrize(
    ("name", "options", "workers"), [("ssd", {"extra": "d4"}, 0), ("ssd", {}, 1), ("lsj", {"antialias": False}, 0)]
)
def test_decoded_batches_equal_those_of_workers(
    mixed: DetectionDataset, name: str, options: dict[str, Any], workers: int
) -> None:
    decode = Counted()
    assert_equal(batches(mixed, decode, name, workers, **options), batches(mixed, None, name, **options))
    assert decode.count == 2 * PLAIN


def test_resumed_epoch_equals_its_end(mixed: DetectionDataset) -> None:
    assert_equal(batches(mixed, Counted(), start=2), batches(mixed, Counted())[2:])


@pytest.mark.parametrize("options", [{"mosaic": 1.0}, {"copy_paste": 1.0}])
def test_mixed_epochs_are_decoded_by_workers(mixed: DetectionDataset, options: dict[str, Any]) -> None:
    decode = Counted()
    assert_equal(batches(mixed, decode, **options), batches(mixed, None, **options))
    assert decode.count == PLAIN  # in the second epoch only


def test_image_that_only_the_cpu_decodes(mixed: DetectionDataset) -> None:
    decode = Counted([encode(**FILES["half"])])
    assert_equal(batches(mixed, decode), batches(mixed, None))
    assert decode.count == 2 * (PLAIN - 1)


@pytest.mark.parametrize("damage", ["tables", "truncated", "size"])
def test_damaged_file_is_replaced_and_reported_as_by_workers(tmp_path: Path, damage: str) -> None:
    content = encode()
    table = content.index(b"\xff\xc4") + 5
    bad = {
        "tables": content[:table] + bytes([255] * 16) + content[table + 16 :],  # no such Huffman codes
        "truncated": content[: len(content) // 2],
        "size": encode(size=(50, 40)),
    }
    files = {"a": encode(), "bad": content, "c": encode((40, 60)), "d": encode((20, 30))}
    write_files(tmp_path, files)
    (tmp_path / "images/bad.jpg").write_bytes(bad[damage])
    assert is_plain_jpeg(np.frombuffer(bad[damage], np.uint8)) == (damage != "truncated")
    found, expected = opened(tmp_path), opened(tmp_path)
    assert_equal(batches(found, Counted(), workers=1), batches(expected, None))
    assert found.report == expected.report and [Path(fault.file).name for fault in found.report] == ["bad.jpg"]
    messages = []
    for decode in (Counted(), None):
        with pytest.raises(DataError, match=r"bad\.jpg") as error:
            batches(opened(tmp_path, on_error="raise"), decode)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_files_that_decoders_read_alike() -> None:
    for name, how in FILES.items():
        raw = np.frombuffer(encode(**how), np.uint8)
        assert is_plain_jpeg(raw) == (name not in ("progressive", "gray", "cmyk", "png")), name
        assert not is_plain_jpeg(raw[:-1]) and not is_plain_jpeg(raw[: len(raw) // 2])
    content = encode()
    start = content.index(b"\xff\xc0")
    header, frame = content[:start], content[start:]
    thumbnail = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
    assert is_plain_jpeg(np.frombuffer(header + thumbnail + frame, np.uint8))
    adobe = {n: b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + bytes([n]) for n in (0, 1, 2)}
    found = {n: is_plain_jpeg(np.frombuffer(header + part + frame, np.uint8)) for n, part in adobe.items()}
    assert found == {0: False, 1: True, 2: False}
    for position, value in ((4, 12), (11, 0x42), (14, 0x12)):  # 12 bits, subsampling 4:1:0, chroma above luma
        changed = frame[:position] + bytes([value]) + frame[position + 1 :]
        assert not is_plain_jpeg(np.frombuffer(header + changed, np.uint8)), position
    assert not is_plain_jpeg(np.frombuffer(b"", np.uint8))


def test_device_jpeg_is_rejected_where_it_cannot_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--device-jpeg needs --device-augmentation"):
        check_settings(TrainConfig(device_jpeg=True))
    config = replace(SMALL, device_augmentation=True, device_jpeg=True, output_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="--device-jpeg is not possible: it decodes on a CUDA device, got cpu"):
        run(config)
    monkeypatch.setattr(preparation, "why_not_decoded", lambda _: None)
    with pytest.raises(ConfigError, match="--device-jpeg is not possible: the augmentation resizes"):
        preparation.build_decoder(config, build_transforms("multiscale", SIDE, train=True, deferred=True), CPU)


def test_training_batches_equal_those_of_workers(
    mixed: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "why_not_decoded", lambda _: None)
    folder = Path(str(mixed.annotations.files[0])).parent
    options = {"annotations": str(folder.parent / "instances.json")}
    config = replace(SMALL, dataset="coco", data_path=str(folder), dataset_options=options, device_augmentation=True)
    loaders = []
    for device_jpeg in (False, True):
        changed = replace(config, batch_size=4, device_jpeg=device_jpeg, output_dir=str(tmp_path / str(device_jpeg)))
        _, loader, _ = preparation.prepare(changed, World(), RunFolder.open(changed))
        loaders.append(loader)
    assert [loader._decoder is not None for loader in loaders] == [False, True]
    assert_equal([*loaders[1]], [*loaders[0]])


def test_candidates_of_the_benchmark_are_equal_on_a_cpu(mixed: DetectionDataset) -> None:
    paths = [Path(str(mixed.annotations.files[list(FILES).index(name)])) for name in ("exif1", "full", "quarter")]
    targets = [mixed.target(list(FILES).index(name)) for name in ("exif1", "full", "quarter")]
    calls = device_decoding.candidates(CPU, SIDE)
    results = {name: call(paths, targets) for name, call in calls.items()}
    for result in results.values():
        device_decoding.check(result, results["worker"])
    assert torch.equal(results["ssd"].render(), results["worker"].render())


@pytest.mark.cuda
@pytest.mark.parametrize("name", [name for name in FILES if name not in ("progressive", "gray", "cmyk", "png")])
def test_pixels_of_the_gpu_are_near_those_of_the_cpu(tmp_path: Path, name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    content, device = encode(**FILES[name]), torch.device("cuda")
    (tmp_path / "a.jpg").write_bytes(content)
    expected = read_image(tmp_path / "a.jpg", apply_exif=True)
    with Image.open(io.BytesIO(content)) as image:
        size, orientation = (image.height, image.width), image.getexif().get(0x0112, 1)
    file = EncodedImage(torch.from_numpy(np.frombuffer(content, np.uint8).copy()), size, orientation)
    found = file.oriented(decode_jpegs([file.content], device)[0])
    assert found.dtype == torch.uint8 and found.device.type == "cuda" and found.shape == expected.shape == file.shape
    # The limit of torchvision's own test of its decoder; the order of channels and the orientation decide about far more.
    assert (found.cpu().float() - expected.float()).abs().mean() < 2


@pytest.mark.cuda
def test_batches_of_the_gpu_are_near_those_of_workers(mixed: DetectionDataset) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    device = torch.device("cuda", 0)
    transform = build_transforms("ssd", SIDE, train=True, deferred=True)
    loaders = [
        build_loader(mixed, transform, 4, train=True, seed=5, decoder=decoder)
        for decoder in (DeviceDecoder(device), None)
    ]
    for one, other in zip(*loaders, strict=True):
        assert isinstance(one.images, PackedImages) and one.images.device == device
        assert torch.equal(one.gt_boxes, other.gt_boxes) and one.image_ids == other.image_ids
        difference = one.images.render().cpu() - other.images.render()
        assert difference.abs().mean() < 3
