"""Augmentation on the device that trains: the same crops, sizes and flips as in the workers, and nearly the same pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssd.data import Batch, PackedImages, build_loader, collate, open_dataset
from ssd.models import build_model
from ssd.run_folder import CsvLog
from ssd.training import run
from ssd.transforms import PhotometricRule, build_transforms
from tests.ssd.processes import run_processes
from tests.ssd.test_training import SMALL, run_one_epoch
from tests.ssd.test_transforms import sample

SIDE = 64
# The plain path rounds to bytes after each direction of the resize, by up to half a level, with weights of 16 bits.
ROUNDED = 1.25


def both(name: str, count: int = 12, height: int = 120, width: int = 200, **options: Any) -> tuple[Batch, Batch]:
    """A batch as workers make it, and the same with the pixels left to the device."""
    batches = []
    for deferred in (False, True):
        transform = build_transforms(name, SIDE, train=True, deferred=deferred, **options)
        samples = []
        for seed in range(count):
            torch.manual_seed(seed)
            samples.append(transform(*sample(height + 7 * seed, width - 5 * seed)))
        batches.append(collate(samples))
    return batches[0], batches[1]


def rendered(batch: Batch) -> Tensor:
    assert isinstance(batch.images, PackedImages)
    return batch.images.render()


def assert_same_objects(one: Batch, other: Batch) -> None:
    for name in ("gt_boxes", "gt_labels", "ignore", "offsets", "sizes"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.image_ids == other.image_ids


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ssd", {"photometric": None}),
        ("ssd", {"photometric": None, "antialias": False, "extra": "vflip"}),
        ("ssdlite", {"extra": "d4"}),
        ("hflip", {}),
        ("multiscale", {"shortest": [24, 48, 96]}),
        ("lsj", {"hflip": 1.0}),
        ("none", {"fill": (1, 2, 3)}),
    ],
)
def test_pixels_and_boxes_are_those_of_the_workers(name: str, options: dict[str, Any]) -> None:
    plain, deferred = both(name, **options)
    assert_same_objects(plain, deferred)
    assert len(plain.gt_labels) > 12
    torch.testing.assert_close(rendered(deferred), plain.images.float(), rtol=0, atol=ROUNDED)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (2, 40000)])
def test_crops_far_larger_than_the_output_are_resized_by_the_worker(height: int, width: int) -> None:
    plain, deferred = both("ssd", 6, height, width, photometric=None, crop=None, zoom=4.0)
    assert_same_objects(plain, deferred)
    assert torch.equal(rendered(deferred), plain.images.float())  # so they have been rounded in the same way
    assert deferred.images.pixels.numel() <= 6 * 3 * SIDE**2


@pytest.mark.parametrize("preset", ["torchvision", "caffe"])  # RGB, and BGR
def test_the_network_sees_the_same(preset: str) -> None:
    plain, deferred = both("ssd", 4, photometric=PhotometricRule(hue=(0.0, 0.0)))
    model = build_model("ssd_tiny", 4, preset=preset, image_size=SIDE, width=4, levels=2)
    steps = 2 * ROUNDED / float((255 * model.std).min())  # contrast and saturation make up to 1.5 of one level
    torch.testing.assert_close(model.normalize(deferred.images), model.normalize(plain.images), rtol=0, atol=steps)
    assert model.bfloat16().normalize(deferred.images).dtype == torch.bfloat16


def test_batches_do_not_depend_on_workers_and_move() -> None:
    dataset = open_dataset("shapes", size=10, image_size=64)
    augment = build_transforms("ssd", 48, train=True, deferred=True)
    alone, helped = (list(build_loader(dataset, augment, 4, train=True, workers=n, seed=3)) for n in (0, 1))
    for one, other in zip(alone, helped, strict=True):
        assert_same_objects(one, other)
        assert torch.equal(rendered(one), rendered(other))
    moved = alone[0].to("meta", non_blocking=True)
    assert moved.images.device.type == "meta" and moved.images.colours.device.type == "meta"
    assert not torch.equal(rendered(alone[0]), rendered(alone[1]))


def losses(folder: Path, **changes: Any) -> list[float]:
    run(replace(SMALL, output_dir=str(folder), **changes))
    return [row["loc_loss"] + row["cls_loss"] for row in CsvLog(folder / "train.csv").rows()]


@pytest.mark.parametrize("mixed", [False, True])
def test_training_learns_as_with_workers(tmp_path: Path, mixed: bool) -> None:
    changes: dict[str, Any] = {"dataset_options": {"size": 24, "image_size": 100}}
    if mixed:
        changes |= {"amp": True, "channels_last": True, "data_augmentation": "ssd"}
    plain = losses(tmp_path / "plain", **changes)
    deferred = losses(tmp_path / "deferred", device_augmentation=True, **changes)
    assert len(plain) == 6 and (mixed or deferred[-1] < 0.9 * deferred[0])
    # Pixels differ by parts of a level, which six steps let grow, and more so in half precision.
    assert deferred != plain and deferred == pytest.approx(plain, rel=0.05 if mixed else 0.01)
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert names == {path.name for path in (tmp_path / "deferred").iterdir()} and "last.pt" in names


def test_resuming_gives_the_run_that_was_not_interrupted(tmp_path: Path) -> None:
    whole, half = (replace(SMALL, device_augmentation=True, output_dir=str(tmp_path / n)) for n in ("whole", "half"))
    run(whole)
    run_one_epoch(half)
    run(replace(half, resume=half.output_dir))
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "half"))
    assert one["step"] == two["step"] == 6
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])


def test_two_processes_each_render_their_own(tmp_path: Path) -> None:
    config = replace(SMALL, device_augmentation=True, epochs=1, batch_size=4)
    ended = run_processes(tmp_path, run, replace(config, output_dir=str(tmp_path / "run")))
    assert [process.code for process in ended] == [0, 0], ended
    one = losses(tmp_path / "one", device_augmentation=True, epochs=1)  # 24 images by 8, as 2 x 4
    rows = CsvLog(tmp_path / "run" / "train.csv").rows()
    assert [row["loc_loss"] + row["cls_loss"] for row in rows] == pytest.approx(one, rel=0.02)
