"""Tests transforms against torchvision's: pixels, boxes, rules and distributions."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ssd.data import DataError, ShapesDataset
from ssd.transforms import Augment, Augmentation, CropRule, FromV2, PhotometricRule, build_transforms
from ssd.transforms.geometry import View, crop_view, make_placement, map_boxes, render, zoom_view
from ssd.transforms.photometric import distort, draw_distortion, shift_hue

BOXES = torch.tensor([[20.0, 30.0, 90.0, 110.0], [100.0, 10.0, 180.0, 60.0], [5.0, 100.0, 15.0, 112.0]])


def sample(height=120, width=200):
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 256, (3, 12, 20), generator=generator, dtype=torch.uint8)
    image = F.resize(coarse, [height, width])
    target = {"boxes": BOXES.clone(), "labels": torch.tensor([1, 2, 3]), "ignore": torch.zeros(3, dtype=torch.bool)}
    return image, {**target, "image_id": 7}


def marked(boxes):
    """A black image of the size of `sample` whose boxes are white."""
    image = torch.zeros(3, 120, 200, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes.round().int().tolist():
        image[:, y1:y2, x1:x2] = 255
    return image


def test_resize_equals_torchvision():
    image, target = sample()
    out, moved = build_transforms("ssd", 64, train=False)(image, target)
    assert torch.equal(out, F.resize(image, [64, 64], antialias=True))
    assert torch.allclose(moved["boxes"], BOXES * torch.tensor([64 / 200, 64 / 120] * 2))
    assert moved["image_id"] == 7 and torch.equal(target["boxes"], BOXES), "the input must not change"


def test_crop_equals_torchvision():
    image, _ = sample()
    placement = make_placement(View(30, 20, 130, 100), 120, 200, 64)
    expected = F.resized_crop(image, 20, 30, 80, 100, [64, 64], antialias=True)
    assert torch.equal(render(image, placement, antialias=True), expected)
    boxes = F.crop_bounding_boxes(BOXES, tv_tensors.BoundingBoxFormat.XYXY, 20, 30, 80, 100)[0].clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([100.0, 80.0, 100.0, 80.0])) * torch.tensor([0.64, 0.8, 0.64, 0.8])
    assert torch.allclose(torch.from_numpy(map_boxes(BOXES.numpy(), placement)), boxes, atol=1e-5)


@pytest.mark.parametrize("extra", [None, "vflip", "d4"])
def test_boxes_follow_their_pixels(extra):
    # White boxes on black, any zoom, crop, flip and rotation: inside a box it stays white, outside of all it stays black.
    boxes = BOXES[:2]
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "ignore": torch.zeros(2, dtype=torch.bool)}
    rule = Augmentation(zoom=3.0, crop=CropRule(), extra=extra, cut="ignore", fill=(0, 0, 0), min_size=0.1)
    image = marked(boxes)
    for seed in range(150):
        torch.manual_seed(seed)
        out, moved = Augment(100, rule)(image, dict(target))
        white = torch.zeros(100, 100, dtype=torch.bool)
        around = torch.zeros(100, 100, dtype=torch.bool)
        for x1, y1, x2, y2 in moved["boxes"].tolist():
            white[int(np.ceil(y1)) + 2 : int(y2) - 2, int(np.ceil(x1)) + 2 : int(x2) - 2] = True
            around[max(0, int(y1) - 3) : int(y2) + 4, max(0, int(x1) - 3) : int(x2) + 4] = True
        assert bool((out[0][white] > 200).all()), f"seed {seed}: a box lies beside its object"
        assert bool((out[0][~around] < 50).all()), f"seed {seed}: an object has no box"
        assert float(moved["boxes"].min()) >= 0 and float(moved["boxes"].max()) <= 100


def test_quarter_rotations_reach_all_eight_orientations():
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    target = {"boxes": torch.tensor([[2.0, 5.0, 12.0, 9.0]]), "labels": torch.ones(1), "ignore": torch.zeros(1).bool()}
    augment = build_transforms("hflip", 40, train=True, extra="d4")
    torch.manual_seed(0)
    found = [tuple(augment(image, target)[1]["boxes"][0].tolist()) for _ in range(400)]
    counts = [found.count(box) for box in set(found)]
    assert len(counts) == 8 and min(counts) > 25


def test_iou_crop_satisfies_its_constraints():
    boxes = BOXES.double().numpy()
    torch.manual_seed(0)
    for min_iou in (0.0, 0.1, 0.3, 0.5):
        for _ in range(60):
            view = crop_view(View(0, 0, 200, 120), boxes, CropRule(min_ious=(min_iou,)))
            if view == (0, 0, 200, 120):
                continue
            x1, y1, x2, y2 = view
            assert 0 <= x1 < x2 <= 200 and 0 <= y1 < y2 <= 120 and 0.5 <= (x2 - x1) / (y2 - y1) <= 2.0
            center = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = ((center > [x1, y1]) & (center < [x2, y2])).all(1)
            overlap = np.clip(np.minimum(boxes[:, 2:], [x2, y2]) - np.maximum(boxes[:, :2], [x1, y1]), 0, None).prod(1)
            iou = overlap / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (x2 - x1) * (y2 - y1) - overlap)
            assert inside.any() and iou[inside].max() >= min_iou


def kolmogorov(a, b) -> float:
    points = np.sort(np.concatenate([a, b]))
    return float(
        np.abs(
            np.searchsorted(np.sort(a), points, "right") / len(a)
            - np.searchsorted(np.sort(b), points, "right") / len(b)
        ).max()
    )


def test_transform_distributions_equal_torchvision():
    boxes = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(120, 200))
    image, count = torch.zeros(1, 120, 200, dtype=torch.uint8), 400
    crop, zoom = v2.RandomIoUCrop(), v2.RandomZoomOut(side_range=(1.0, 4.0))
    torch.manual_seed(0)
    theirs, ours, wide, zoomed = [], [], [], []
    for _ in range(count):
        p = crop.make_params([image, boxes])
        theirs.append((p["left"], p["top"], p["width"], p["height"]) if p else (0, 0, 200, 120))
        view = crop_view(View(0, 0, 200, 120), BOXES.double().numpy(), CropRule())
        ours.append((view.x1, view.y1, view.x2 - view.x1, view.y2 - view.y1))
        left, top, right, bottom = zoom.make_params([image])["padding"]
        wide.append((left, top, left + right, top + bottom))
        view = zoom_view(View(0, 0, 200, 120), 4.0)
        zoomed.append((-view.x1, -view.y1, view.x2 - view.x1 - 200, view.y2 - view.y1 - 120))
    limit = 1.95 * np.sqrt(2 / count)  # of Kolmogorov and Smirnov's statistic at 0.1 %
    for a, b in ((np.array(theirs), np.array(ours)), (np.array(wide), np.array(zoomed))):
        for column in range(4):
            assert kolmogorov(a[:, column].astype(float), b[:, column].astype(float)) < limit, column


@pytest.mark.parametrize("step", ["brightness", "contrast", "saturation", "hue"])
def test_photometric_steps_equal_torchvision(step):
    image, _ = sample()
    value = {"brightness": 1.1, "contrast": 0.6, "saturation": 1.4, "hue": 0.04}[step]
    off = {name: (1.0, 1.0) for name in ("brightness", "contrast", "saturation")} | {"hue": (0.0, 0.0)}
    rule = PhotometricRule(**{**off, step: (value, value)}, permute=False, p=1.0)
    theirs = getattr(F, f"adjust_{step}")(image, value)
    difference = (distort(image, image, draw_distortion(rule)).int() - theirs.int()).abs()
    # torchvision rounds down after each step; the contrast's mean here comes from a grid.
    assert int(difference.max()) <= (3 if step == "contrast" else 2)


def test_hue_of_gray_and_full_rotation():
    gray = torch.full((3, 5), 77.0)
    assert torch.equal(shift_hue(gray, 0.3), gray)
    colors = torch.rand(3, 1000) * 255
    assert torch.allclose(shift_hue(colors, 1.0), colors, atol=1e-2)
    red = torch.tensor([[255.0], [0.0], [0.0]])
    assert torch.allclose(shift_hue(red, 1 / 3), torch.tensor([[0.0], [255.0], [0.0]]), atol=1e-2)


def test_contrast_uses_mean_of_whole_image():
    image = torch.cat([torch.zeros(3, 64, 64), torch.full((3, 64, 64), 200.0)], dim=2).to(torch.uint8)
    rule = PhotometricRule((1, 1), (0.5, 0.5), (1, 1), (0, 0), permute=False, p=1.0)
    assert distort(image[:, :, :64], image, draw_distortion(rule)).unique().tolist() == [50]


def test_cut_option_drops_or_ignores_cropped_objects():
    image, target = sample()
    target["ignore"] = torch.tensor([False, True, False])
    placement_rule = dict(hflip=0.0, crop=CropRule(min_ious=(0.0,), scale=(0.5, 0.5), aspect=(0.1, 10)))
    for seed in range(40):
        results = []
        for cut in ("drop", "ignore"):
            torch.manual_seed(seed)
            results.append(build_transforms("none", 100, train=True, cut=cut, **placement_rule)(image, target)[1])
        drop, ignore = results
        # Objects to learn are the same; only what is cut off through its center is there besides, to be ignored.
        assert torch.equal(drop["boxes"][~drop["ignore"]], ignore["boxes"][~ignore["ignore"]])
        assert torch.equal(drop["labels"][~drop["ignore"]], ignore["labels"][~ignore["ignore"]])
        assert len(ignore["labels"]) >= len(drop["labels"]) > 0
        assert bool((drop["labels"][drop["ignore"]] == 2).all()), "the ignored object stays ignored"


def test_multiscale_equals_two_torchvision_resizes():
    image, target = sample()
    for options, sides in (({"shortest": [60]}, (60, 100)), ({"shortest": [240], "longest": 300}, (180, 300))):
        out, moved = build_transforms("multiscale", 64, train=True, hflip=0.0, **options)(image, target)
        assert torch.equal(out, F.resize(F.resize(image, list(sides)), [64, 64]))
        assert torch.allclose(moved["boxes"], BOXES * torch.tensor([64 / 200, 64 / 120] * 2))
    torch.manual_seed(0)
    plain = build_transforms("none", 64, train=True)(image, target)[0]
    out = build_transforms("multiscale", 64, train=True, hflip=0.0)(image, target)[0]
    assert float((out.int() - plain.int()).abs().float().mean()) < 1.0, "above S it hardly shows"


def test_large_scale_jitter_keeps_aspect_and_cropped_objects():
    image, target = sample()
    for seed in range(60):
        torch.manual_seed(seed)
        out, moved = build_transforms("lsj", 100, train=True, hflip=0.0)(image, target)
        around = (out == torch.tensor([123, 117, 104])[:, None, None]).all(0)
        rows, columns = ((~around).any(axis).nonzero()[:, 0] for axis in (1, 0))
        assert int(rows[0]) == int(columns[0]) == 0, "the image is in the upper left corner"
        if len(columns) < 98:  # all of it is seen
            assert len(rows) / len(columns) == pytest.approx(120 / 200, abs=0.12)
        assert bool((moved["boxes"] <= 100).all()) and not bool(moved["ignore"].any())


@pytest.mark.parametrize("name", ["ssd", "ssdlite", "hflip", "multiscale", "lsj", "none"])
def test_augmentations_with_and_without_objects(name):
    transform = build_transforms(name, 96, train=True)
    for index in range(40):
        image, target = sample()
        if index % 4 == 0:
            target |= {"boxes": torch.empty(0, 4), "labels": target["labels"][:0], "ignore": target["ignore"][:0]}
        torch.manual_seed(index)
        out, moved = transform(image, target)
        assert out.shape == (3, 96, 96) and out.dtype == torch.uint8 and out.is_contiguous()
        boxes = moved["boxes"]
        assert len(boxes) == len(moved["labels"]) == len(moved["ignore"]) and boxes.dtype == torch.float32
        assert len(boxes) > 0 or index % 4 == 0 or name in ("ssd", "lsj"), "a crop keeps at least one object"
        assert bool((boxes[:, 2:] - boxes[:, :2] >= 1).all())


def test_zoom_out_pads_with_fill():
    image, target = sample()
    torch.manual_seed(2)
    out = [build_transforms("none", 80, train=True, zoom=4.0)(image, target)[0] for _ in range(10)]
    filled = [int((o == torch.tensor([123, 117, 104])[:, None, None]).all(0).sum()) for o in out]
    assert any(count > 1600 for count in filled) and any(count < 100 for count in filled)


def test_any_v2_transform_can_be_used():
    chain = v2.Compose(
        [
            v2.RandomHorizontalFlip(1.0),
            v2.Resize((64, 64)),
            v2.SanitizeBoundingBoxes(labels_getter=lambda s: (s["labels"], s["ignore"])),
        ]
    )
    image, target = sample()
    target["boxes"][2, 2:] = target["boxes"][2, :2]
    out, moved = FromV2(chain)(image, target)
    assert type(out) is torch.Tensor and out.shape == (3, 64, 64) and type(moved["boxes"]) is torch.Tensor
    assert moved["labels"].tolist() == [1, 2] and moved["ignore"].tolist() == [False, False] and moved["image_id"] == 7
    ours, same = build_transforms("hflip", 64, train=True, hflip=1.0)(image, target)
    assert torch.allclose(moved["boxes"], same["boxes"][:2]) and int((out.int() - ours.int()).abs().max()) <= 1


def test_transform_names_and_errors():
    mild = build_transforms("ssd", 64, train=True, crop="mild", photometric="mild", zoom=1.5)
    assert not mild.rule.photometric.permute and mild.rule.crop.relative and mild.rule.zoom == 1.5
    assert build_transforms("ssd", 64, train=True, crop="none").rule.crop is None
    image, target = ShapesDataset(size=1)[0]
    assert mild(image, target)[0].shape == (3, 64, 64)
    for options, text in (
        ({"zom": 2.0}, "did you mean 'zoom'"),
        ({"crop": "wild"}, "crop must be one of ssd, mild, none"),
        ({"zoom": 0.5}, "zoom must be at least 1, got 0.5"),
        ({"zoom": "wide"}, "zoom must be at least 1, got 'wide'"),
        ({"shortest": 300}, "shortest must be a list of sides of at least 1 pixel, got 300"),
        ({"shortest": [0]}, "shortest must be a list of sides of at least 1 pixel"),
        ({"longest": None}, "longest must be at least 1 pixel, got None"),
        ({"jitter": [2.0, 0.1]}, "jitter must be two ascending scales above 0"),
        ({"jitter": [0.1, "2"]}, "jitter must be two ascending scales above 0"),
        ({"fill": [1, 2]}, r"fill must be three values in 0 .. 255, got \[1, 2\]"),
        ({"fill": "red"}, "fill must be three values in 0 .. 255, got 'red'"),
        ({"fill": [300, 0, 0]}, "fill must be three values in 0 .. 255"),
        ({"antialias": "maybe"}, "antialias must be true or false, got 'maybe'"),
        ({"crop": 0.5}, "crop must be a rule or its name, got 0.5"),
        ({"photometric": True}, "photometric must be a rule or its name, got True"),
        ({"extra": "spin"}, "extra must be None, 'vflip' or 'd4', got 'spin'"),
    ):
        with pytest.raises(DataError, match=text):
            build_transforms("ssd", 64, train=True, **options)
    with pytest.raises(DataError, match="did you mean 'ssdlite'"):
        build_transforms("ssdlit", 64, train=True)
