"""Tests augmentation on the training device: same crops, sizes and flips as in workers, nearly the same pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssd.data import Batch, PackedImages, build_loader, collate, open_dataset
from ssd.data.dataset import Target
from ssd.engine import loop
from ssd.engine.loop import run
from ssd.models import build_model
from ssd.reports.csv_log import CsvLog
from ssd.transforms import Augment, Augmentation, Deferred, PhotometricRule, build_transforms
from tests.processes import run_processes
from tests.ssd.test_training import SMALL
from tests.ssd.test_transforms import sample

SIDE = 64
# The plain path rounds to bytes after each direction of the resize, by up to half a level, with weights of 16 bits.
ROUNDED = 1.25


def both(name: str, count: int = 12, height: int = 120, width: int = 200, **options: Any) -> tuple[Batch, Batch]:
    """Returns a batch augmented by workers, and the same batch augmented on the device."""
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
def test_device_pixels_and_boxes_equal_workers(name: str, options: dict[str, Any]) -> None:
    plain, deferred = both(name, **options)
    assert_same_objects(plain, deferred)
    assert len(plain.gt_labels) > 12
    torch.testing.assert_close(rendered(deferred), plain.images.float(), rtol=0, atol=ROUNDED)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (2, 40000)])
def test_large_crops_are_resized_by_the_worker(height: int, width: int) -> None:
    plain, deferred = both("ssd", 6, height, width, photometric=None, crop=None, zoom=4.0)
    assert_same_objects(plain, deferred)
    assert torch.equal(rendered(deferred), plain.images.float())  # so they have been rounded in the same way
    assert deferred.images.pixels.numel() <= 6 * 3 * SIDE**2


def muted(seed: int) -> tuple[Tensor, Target]:
    """Returns an image of the output size, so that nothing is resized, in which mild color steps stay in 0 .. 255."""
    image, target = sample(SIDE, SIDE)
    image = (image.float() * 0.2 + torch.tensor([90.0, 50.0, 110.0])[:, None, None]).to(torch.uint8)
    return image.roll(seed, 0), {**target, "boxes": target["boxes"].clamp(max=SIDE)}


@pytest.mark.parametrize("hue", [0.02, 0.5])
def test_device_colors_equal_workers(hue: float) -> None:
    """All steps in both orders and all orders of the channels; the plain path rounds once, at the end."""
    rule = PhotometricRule((0.9, 1.1), (0.8, 1.2), (0.8, 1.2), (-hue, hue), p=0.8)
    seen = 0.0
    for seed in range(60):
        for_workers, for_device = (Augment(SIDE, Augmentation(photometric=rule)) for _ in range(2))
        torch.manual_seed(seed)
        plain, _ = for_workers(*muted(seed))
        torch.manual_seed(seed)
        unrendered, _ = Deferred(for_device)(*muted(seed))
        difference = PackedImages.of([unrendered]).render()[0] - plain
        assert difference.abs().max() < 0.51, (seed, unrendered.color_matrix, unrendered.hue)
        seen += float((plain - muted(seed)[0].float()).abs().mean())
    assert seen > 60 * 5


def test_colors_clamped_once_have_similar_statistics() -> None:
    """Workers clamp to 0 .. 255 after each step, the device only once."""
    plain, deferred = both("ssd", 40)
    for measure in (mean_of, deviation_of, saturation_of):
        differences = measure(rendered(deferred)) - measure(plain.images.float())
        assert differences.abs().max() < 0.5 and differences.mean().abs() < 0.05, measure.__name__


def mean_of(images: Tensor) -> Tensor:
    return images.mean((2, 3))


def deviation_of(images: Tensor) -> Tensor:
    return images.std((2, 3))


def saturation_of(images: Tensor) -> Tensor:
    return (images.amax(1) - images.amin(1)).mean((1, 2))


@pytest.mark.parametrize("preset", ["torchvision", "caffe"])  # RGB, and BGR
def test_network_input_equals_workers(preset: str) -> None:
    augment = Augment(SIDE, Augmentation(photometric=PhotometricRule((0.9, 1.1), (0.8, 1.2), (0.8, 1.2)), zoom=2.0))
    batches = []
    for transform in (augment, Deferred(augment)):
        torch.manual_seed(3)
        batches.append(collate([transform(*muted(seed)) for seed in range(8)]).images)
    model = build_model("ssd_tiny", 4, preset=preset, image_size=SIDE, width=4, levels=2)
    step = 2 * ROUNDED / float((255 * model.std).min())  # the mild steps make up to 2 of one level
    torch.testing.assert_close(model.normalize(batches[1]), model.normalize(batches[0]), rtol=0, atol=step)
    model, deferred = model.bfloat16(), batches[1]
    assert model.normalize(deferred).dtype == torch.bfloat16


def test_deferred_batches_do_not_depend_on_workers_and_move() -> None:
    dataset = open_dataset("shapes", size=10, image_size=64)
    augment = build_transforms("ssd", 48, train=True, deferred=True)
    alone, helped = (list(build_loader(dataset, augment, 4, train=True, workers=n, seed=3)) for n in (0, 1))
    for one, other in zip(alone, helped, strict=True):
        assert_same_objects(one, other)
        assert torch.equal(rendered(one), rendered(other))
    moved = alone[0].to("meta", non_blocking=True)
    assert moved.images.device.type == "meta" and moved.images.color_matrices.device.type == "meta"
    assert not torch.equal(rendered(alone[0]), rendered(alone[1]))


def losses(folder: Path, **changes: Any) -> list[float]:
    run(replace(SMALL, output_dir=str(folder), **changes))
    return [row["loc_loss"] + row["cls_loss"] for row in CsvLog(folder / "train.csv").rows()]


@pytest.mark.parametrize("mixed", [False, True])
def test_training_with_device_augmentation_converges_like_workers(tmp_path: Path, mixed: bool) -> None:
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


def test_resumed_run_with_device_augmentation_equals_uninterrupted(tmp_path: Path) -> None:
    whole, half = (replace(SMALL, device_augmentation=True, output_dir=str(tmp_path / n)) for n in ("whole", "half"))
    run(whole)
    train_epoch = loop.train_epoch

    def one_epoch(config: Any, state: Any, *others: Any) -> Any:
        if state.epoch == 1:
            raise InterruptedError
        return train_epoch(config, state, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_epoch", one_epoch)
        with pytest.raises(InterruptedError):
            run(half)
    run(replace(half, resume=half.output_dir))
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "half"))
    assert one["step"] == two["step"] == 6
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])


def test_each_process_renders_its_own_images(tmp_path: Path) -> None:
    config = replace(SMALL, device_augmentation=True, epochs=1, batch_size=4)
    ended = run_processes(tmp_path, run, replace(config, output_dir=str(tmp_path / "run")))
    assert [process.code for process in ended] == [0, 0], ended
    one = losses(tmp_path / "one", device_augmentation=True, epochs=1)  # 24 images by 8, as 2 x 4
    rows = CsvLog(tmp_path / "run" / "train.csv").rows()
    assert [row["loc_loss"] + row["cls_loss"] for row in rows] == pytest.approx(one, rel=0.02)
