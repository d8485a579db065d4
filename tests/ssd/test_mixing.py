"""Tests mosaics and pasted objects: pixels, boxes, labels and flags, and that they resume and read as other samples do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ssd.data import DataError, build_loader, open_dataset
from ssd.data.loading.samples import MixingTransform
from ssd.engine.distributed import World
from ssd.engine.preparation import prepare
from ssd.engine.run_folder import RunFolder
from ssd.transforms import build_transforms
from ssd.transforms.geometry import Placement, View
from ssd.transforms.mixing import make_mosaic, mosaic_placements, paste_objects
from tests.ssd.small_folders import voc_object, write_voc
from tests.ssd.test_training import SMALL

CENTERED = [0.5, 0.5]  # where the tiles meet


def sample(value: int, *boxes: list[float], ignore: bool = False, size: tuple[int, int] = (8, 8)) -> Any:
    """Returns an image of one value; object i has the label value + i."""
    labels = value + torch.arange(len(boxes))
    target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": labels, "image_id": value}
    target["ignore"] = torch.full((len(boxes),), ignore)
    return torch.full((3, *size), value, dtype=torch.uint8), target


def fix_draws(monkeypatch: pytest.MonkeyPatch, draws: list[float]) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(draws, dtype=torch.float64))
    monkeypatch.setattr(torch, "randperm", torch.arange)


def test_mosaic_of_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_draws(monkeypatch, CENTERED + [0.0] * 12)
    box = [2.0, 2.0, 6.0, 8.0]
    samples = [sample(1, box), sample(11), sample(21, box, ignore=True), sample(31, box, [0.0, 0.0, 2.0, 4.0])]
    image, target = make_mosaic(samples, cut="drop", antialias=True)
    halves = [torch.tensor(pair).repeat_interleave(4) for pair in ([1, 11], [21, 31])]
    assert torch.equal(image, torch.stack([halves[0]] * 4 + [halves[1]] * 4).to(torch.uint8).expand(3, 8, 8))
    assert target["boxes"].tolist() == [[1, 1, 3, 4], [1, 5, 3, 8], [5, 5, 7, 8], [4, 4, 5, 6]]
    assert target["labels"].tolist() == [1, 21, 31, 32]
    assert target["ignore"].tolist() == [False, True, False, False]
    assert target["image_id"] == 1


@pytest.mark.parametrize(("cut", "expected"), [("drop", []), ("ignore", [True]), ("keep", [False])])
def test_object_cut_by_the_edge_of_a_tile(cut: str, expected: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    fix_draws(
        monkeypatch, CENTERED + [1.0, 1.0, 0.0] * 4
    )  # each tile shows columns 4 .. 8 and rows 0 .. 4, at full scale
    samples = [sample(1, [1.0, 0.0, 6.0, 3.0]), *(sample(11),) * 3]
    _, target = make_mosaic(samples, cut=cut, antialias=True)
    assert target["ignore"].tolist() == expected
    assert target["boxes"].tolist() == [[0, 0, 2, 3]] * len(expected)


def test_images_of_a_mosaic_keep_their_aspect_ratio_and_fill_their_tiles() -> None:
    sizes = [(100, 200), (200, 100), (1, 1), (30, 400)]
    draws = [0.0, 0.5, *[0.0, 0.0, 0.0], *[1.0, 0.5, 0.5], *[0.5, 0.0, 0.0], *[0.0, 0.9, 0.9]]
    assert mosaic_placements(sizes, (100, 100), draws) == [
        Placement(View(0, 0, 50, 100), View(0, 0, 25, 50)),  # fits at 0.5, half of it is its height
        Placement(View(0, 66, 100, 133), View(25, 0, 100, 50)),  # 75 pixels wide, more than it fits
        Placement(View(0, 0, 1, 1), View(0, 50, 25, 100)),
        Placement(View(319, 0, 364, 30), View(25, 50, 100, 100)),
    ]


def test_boxes_of_a_mosaic_follow_their_pixels() -> None:
    samples = []
    for size in ((60, 90), (90, 60), (40, 40), (120, 100)):
        image, target = sample(0, [10.0, 12.0, 30.0, 36.0], size=size)
        image[:, 12:36, 10:30] = 255
        samples.append((image, target))
    for seed in range(20):
        torch.manual_seed(seed)
        image, target = make_mosaic(samples, cut="ignore", antialias=True)
        assert image.shape == (3, 60, 90)
        white = torch.zeros(60, 90, dtype=torch.bool)
        around = torch.zeros(60, 90, dtype=torch.bool)
        for x1, y1, x2, y2 in target["boxes"].round().int().tolist():
            white[y1 + 2 : max(0, y2 - 2), x1 + 2 : max(0, x2 - 2)] = True
            around[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
        assert bool((image[0][white] > 200).all()) and bool((image[0][~around] < 50).all())


def test_objects_are_pasted_beside_those_of_the_image() -> None:
    other_image, other = sample(10, [1.0, 1.0, 2.5, 4.0], [2.0, 2.0, 2.5, 3.0], [0.0, 4.0, 6.0, 6.0], size=(6, 6))
    other["ignore"][2] = True
    other_image += torch.arange(36, dtype=torch.uint8).view(6, 6)
    image, target = sample(1, [0.0, 0.0, 2.0, 4.0], ignore=True, size=(4, 4))
    found = set()
    for seed in range(40):
        torch.manual_seed(seed)
        pasted, objects = paste_objects((image, target), (other_image, other), cut="drop")
        assert objects["boxes"][0].tolist() == [0, 0, 2, 4] and objects["ignore"][0]
        assert not objects["ignore"][1:].any() and 12 not in objects["labels"] and objects["image_id"] == 1
        changed = pasted != image
        if 10 in objects["labels"] and len(objects["labels"]) == 3:  # object 0, and object 1 in its box
            x1, y1, x2, y2 = objects["boxes"][1].tolist()
            assert (x1, x2) == (2, 3.5) and y2 - y1 == 3
            expected = image.clone()
            expected[:, int(y1) : int(y2), 2:4] = other_image[:, 1:4, 1:3]
            assert torch.equal(pasted, expected)
            assert objects["boxes"][2].tolist() == [3, y1 + 1, 3.5, y1 + 2]
        found.add(tuple(objects["labels"].tolist()))
        assert bool(changed.any()) == (len(objects["labels"]) > 1)
    assert {(1,), (1, 10, 11)} < found
    assert bool((image == 1).all()) and len(target["labels"]) == 1, "the input must not change"


def test_nothing_is_pasted_without_a_free_position() -> None:
    image, target = sample(1, [0.0, 0.0, 8.0, 8.0])
    larger = sample(5, [0.0, 0.0, 9.0, 3.0], size=(9, 9))
    for other in (sample(5, [0.0, 0.0, 2.0, 2.0]), larger):
        for seed in range(5):
            torch.manual_seed(seed)
            pasted, objects = paste_objects((image, target), other, cut="drop")
            assert torch.equal(pasted, image) and objects["labels"].tolist() == [1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    write_voc(root, {name: [voc_object()] for name in "abcdef"})
    (root / "JPEGImages" / "c.jpg").write_bytes(b"no image")
    return root


@pytest.mark.parametrize("deferred", [False, True])
def test_mixed_batches_resume_and_name_unreadable_images(folder: Path, deferred: bool) -> None:
    options: dict[str, Any] = {"mosaic": 0.7, "copy_paste": 0.7, "cut": "ignore", "deferred": deferred}
    transforms = build_transforms("hflip", 32, train=True, **options)
    assert isinstance(transforms, MixingTransform)

    def batches(start: int) -> list[Any]:
        dataset = open_dataset("voc", folder, "train")
        loader = build_loader(dataset, transforms, 2, train=True, seed=3)
        loader.set_epoch(1, start)
        found = list(loader)
        assert start or [fault.kind for fault in dataset.report] == ["image unreadable"]
        return [
            (b.images.tolist() if isinstance(b.images, torch.Tensor) else b.images.pixels.tolist(), b.gt_boxes.tolist())
            for b in found
        ]

    whole = batches(0)
    assert len(whole) == 3 and max(len(boxes) for _, boxes in whole) > 2
    assert batches(1) == whole[1:]


def test_mixing_ends_before_an_epoch(folder: Path) -> None:
    def epoch(number: int, last: int, **options: Any) -> list[Any]:
        transforms = build_transforms("hflip", 32, train=True, **options)
        loader = build_loader(open_dataset("voc", folder, "train"), transforms, 2, train=True, seed=3)
        loader.mix_until(last)
        loader.set_epoch(number)
        return [batch.images.tolist() for batch in loader]

    assert epoch(1, 1, mosaic=1.0) == epoch(1, 1)
    assert epoch(1, 2, mosaic=1.0) != epoch(1, 2)


def test_last_quarter_of_a_training_is_not_mixed(tmp_path: Path) -> None:
    for settings, epochs in (({"epochs": 8}, 6), ({"epochs": 1}, 1), ({"iterations": 12}, 3)):  # 3 steps an epoch
        config = replace(SMALL, dataset="shapes", output_dir=str(tmp_path / str(epochs)), **settings)
        _, loader, _ = prepare(config, World(), RunFolder.open(config))
        assert loader._samples.mixed_epochs == epochs


def test_without_mixing_no_random_number_is_drawn() -> None:
    augment: Any = build_transforms("ssd", 32, train=True)
    before, given = torch.get_rng_state(), sample(1, [0.0, 0.0, 2.0, 2.0])
    assert augment.mix(*given, lambda: None)[0] is given[0]
    assert torch.equal(torch.get_rng_state(), before)
    mixing: Any = build_transforms("ssd", 32, train=True, mosaic=1.0, copy_paste=1.0)
    image, target = mixing.mix(*given, lambda: None)  # no other image can be read
    assert bool((image == 1).all()) and set(target["labels"].tolist()) <= {1}


@pytest.mark.parametrize("option", ["mosaic", "copy_paste"])
def test_probability_out_of_range_raises(option: str) -> None:
    with pytest.raises(DataError, match=f"{option} must be in 0 .. 1, got 1.5"):
        build_transforms("ssd", 32, train=True, **{option: 1.5})
