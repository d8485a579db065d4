"""Tests priors: published counts, clipping of each system, and invalid configurations."""

import math
import warnings

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from ssd.priors import PriorConfig, make_priors
from ssd.priors.sizes import (
    SSD300_COCO,
    SSD300_RATIOS,
    SSD300_STEPS,
    SSD300_VOC,
    SSD512_COCO,
    SSD512_RATIOS,
    SSD512_STEPS,
    SSD512_VOC,
    geometric_scales,
    linear_scales,
    resolve_sizes,
)

CELLS_300 = (38, 19, 10, 5, 3, 1)
CELLS_512 = (64, 32, 16, 8, 4, 2, 1)
# first prior of each level of SSD300
STARTS_300 = (0, 5776, 7942, 8542, 8692, 8728)


def ssd300(sizes=SSD300_COCO, clip="none", **rest):
    return PriorConfig.from_sizes(300, CELLS_300, sizes, SSD300_RATIOS, steps=SSD300_STEPS, clip=clip, **rest)


def ssd512(sizes, clip="none"):
    return PriorConfig.from_sizes(512, CELLS_512, sizes, SSD512_RATIOS, steps=SSD512_STEPS, clip=clip)


def assert_boxes(boxes, expected):
    torch.testing.assert_close(torch.tensor(boxes), torch.tensor(expected).float(), rtol=1e-6, atol=0)


def crossing(priors):
    return int(((priors < 0) | (priors > 1)).any(dim=1).sum())


@pytest.mark.parametrize(
    ("config", "count", "over_border", "wh_moves", "centers_move"),
    [
        (lambda clip: ssd300(SSD300_VOC, clip), 8732, 2869, 20, 114),
        (lambda clip: ssd300(SSD300_COCO, clip), 8732, 2223, 2, 114),
        (lambda clip: ssd512(SSD512_VOC, clip), 24564, 5486, 42, 0),
        (lambda clip: ssd512(SSD512_COCO, clip), 24564, 4118, 42, 0),
    ],
)
def test_published_prior_configs_have_known_counts(config, count, over_border, wh_moves, centers_move):
    plain, wh, full = (make_priors(config(clip), "cxcywh") for clip in ("none", "wh", "all"))
    assert plain.shape == (count, 4) and plain.dtype == torch.float32
    assert config("none").num_priors == count
    assert crossing(make_priors(config("none"))) == over_border
    assert int((plain != wh).any(dim=1).sum()) == wh_moves
    assert torch.equal(plain[:, :2], wh[:, :2])
    assert int((full[:, :2] != wh[:, :2]).any(dim=1).sum()) == centers_move
    assert torch.equal(full[:, 2:], wh[:, 2:])


def test_clip_modes_affect_known_levels():
    plain, wh, full = (make_priors(ssd300(SSD300_VOC, clip), "cxcywh") for clip in ("none", "wh", "all"))
    level = torch.bucketize((plain != wh).any(dim=1).nonzero()[:, 0], torch.tensor(STARTS_300), right=True) - 1
    assert torch.bincount(level, minlength=6).tolist() == [0, 0, 0, 0, 18, 2]
    moved = (full[:, :2] != wh[:, :2]).any(dim=1).nonzero()[:, 0]
    assert 7942 <= moved.min() and moved.max() < 8542  # the 10 x 10 level, whose last center is 304 / 300
    assert plain[moved].max() == torch.tensor(304 / 300)


def test_priors_of_first_cell_literal():
    # s = 30, sqrt(30 * 60) = 42.4264, 30 * sqrt(2) = 42.4264 by 30 / sqrt(2) = 21.2132; center (4, 4)
    expected = torch.tensor([[4, 4, 30, 30], [4, 4, 42.4264069, 42.4264069], [4, 4, 42.4264069, 21.2132034]]) / 300
    priors = make_priors(ssd300(SSD300_VOC), "cxcywh")
    torch.testing.assert_close(priors[:3], expected, rtol=1e-7, atol=0)
    assert torch.equal(priors[3, 2:], priors[2, 2:].flip(0))
    assert torch.equal(priors[4, :2] * 300, torch.tensor([12.0, 4.0]))  # box 4 is the next column, not the next row
    assert torch.equal(priors[38 * 4, :2] * 300, torch.tensor([4.0, 12.0]))
    xyxy = make_priors(ssd300(SSD300_VOC))
    assert torch.equal(xyxy[0], torch.tensor([-11 / 300, -11 / 300, 19 / 300, 19 / 300]))


def test_prior_ratio_orders():
    config = PriorConfig(100, ((1, 1),), (20,), (None,), ((2, 3),))
    r2, r3 = math.sqrt(2), math.sqrt(3)
    pairs = [(20, 20), (20 * r2, 20 / r2), (20 / r2, 20 * r2), (20 * r3, 20 / r3), (20 / r3, 20 * r3)]
    assert_boxes(config.cell_boxes(0), pairs)
    grouped = PriorConfig(100, ((1, 1),), (20,), (None,), ((2, 3),), order="grouped")
    assert_boxes(grouped.cell_boxes(0), [pairs[i] for i in (0, 1, 3, 2, 4)])


def torchvision_priors(generator, cells, size):
    images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    return generator(images, [torch.zeros(1, 1, f, f) for f in cells])[0]


def test_priors_equal_torchvision_ssd300():
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    generator = DefaultBoxGenerator(
        [list(map(int, r)) for r in SSD300_RATIOS], scales=scales, steps=[8, 16, 32, 64, 100, 300]
    )
    config = ssd300(clip="wh")
    theirs = generator._grid_default_boxes([[f, f] for f in CELLS_300], [300, 300])
    assert torch.equal(make_priors(config, "cxcywh"), theirs)
    # theirs are rounded to float32 twice more on the way to corners in pixels, where 3e-5 is one step
    corners = torchvision_priors(generator, CELLS_300, 300)
    torch.testing.assert_close(make_priors(config) * 300, corners, rtol=0, atol=1e-4)


def test_priors_equal_torchvision_ssdlite():
    cells = (20, 10, 5, 3, 2, 1)
    generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    config = PriorConfig.from_scales(320, cells, linear_scales(6), [(2, 3)] * 6, clip="wh")
    assert config.num_priors == 3234
    torch.testing.assert_close(make_priors(config) * 320, torchvision_priors(generator, cells, 320), rtol=0, atol=1e-4)


def test_corner_clip_keeps_priors_inside():
    priors = make_priors(ssd300(SSD300_VOC, "corners"))
    assert crossing(priors) == 0
    plain = make_priors(ssd300(SSD300_VOC))
    assert torch.equal(priors, plain.clamp(0, 1))


def test_priors_of_several_min_sizes_and_rectangular_grids():
    config = PriorConfig(64, ((2, 4), 1), ((8, 12), 40), ((10, 16), None), ((), (2,)))
    assert config.boxes_per_cell == (4, 3) and config.num_priors == 2 * 4 * 4 + 3
    assert_boxes(config.cell_boxes(0), [(8, 8), (80**0.5,) * 2, (12, 12), (192**0.5,) * 2])
    priors = make_priors(config, "cxcywh") * 64
    assert torch.equal(priors[0, :2], torch.tensor([8.0, 16.0]))  # steps 16 and 32 from the grid


def test_prior_sizes_in_percent_raise():
    with pytest.raises(ValueError, match=r"fractions.*got 10 and 95.*divide by 100"):
        linear_scales(6, 10, 95)
    with pytest.raises(ValueError, match=r"scale 95 is a box 28500 px wide in an image of 300 px.*\[0\.1, .*0\.95"):
        PriorConfig.from_scales(300, (10, 5), (10, 50, 95), [(2,)] * 2)
    with pytest.raises(ValueError, match="every prior is larger than the image"):
        PriorConfig.from_sizes(300, (10, 5), (3000, 6000, 9000), [(2,)] * 2)
    with pytest.raises(ValueError, match="look like fractions"):
        PriorConfig.from_sizes(300, (10, 5), (0.1, 0.3, 0.9), [(2,)] * 2)


def test_single_prior_size_raises():
    """Given percentages, torchvision's generator silently makes every prior the whole image."""
    wrong = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=10, max_ratio=95)
    sizes = torch.cat([pairs.clamp(0, 1) for pairs in wrong._wh_pairs])
    assert len(sizes.unique(dim=0)) == 1
    config = PriorConfig(300, (4, 2), (300, 300), (None, None), ((), ()), clip="wh")
    with pytest.raises(ValueError, match=r"all 20 priors have the same size, 300 x 300 px in an image of 300 px"):
        make_priors(config)


def test_duplicate_priors_warn_with_counts():
    config = PriorConfig(
        100, (2, 1), (20, 60), (None, None), ((1,), ())
    )  # ratio 1 and its inverse are the square again
    with pytest.warns(UserWarning, match="8 of 13 priors coincide with another prior .5 are distinct"):
        make_priors(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_priors(ssd300(SSD300_VOC, "all"))  # crossing the border is normal and silent


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": (8, 16)}, "steps must have one entry per level, 1, got 2"),
        ({"steps": (0.08,)}, r"steps\[0\] = 0.08 px times 4 cells covers 0.0032 of the image.*about 25 px"),
        ({"clip": "both"}, "clip must be one of none, wh, all, corners, got 'both'"),
        ({"order": "caffe"}, "order must be one of pairs, grouped, tensorflow, got 'caffe'"),
        (
            {"max_sizes": (10,)},
            r"max_sizes\[0\] must have one larger size for each of min_sizes \(20.0,\), got \(10.0,\)",
        ),
        ({"min_sizes": (math.nan,)}, r"min_sizes\[0\] must be positive finite"),
        ({"min_sizes": (-3,)}, r"min_sizes\[0\] must be positive finite|pixels"),
        ({"aspect_ratios": ((0,),)}, r"aspect_ratios\[0\] must be positive"),
        ({"feature_sizes": (0,)}, r"feature_sizes\[0\] must be at least 1"),
    ],
)
def test_prior_config_error_messages(change, words):
    fields = {
        "image_size": 100,
        "feature_sizes": (4,),
        "min_sizes": (20,),
        "max_sizes": (30,),
        "aspect_ratios": ((2,),),
    }
    with pytest.raises(ValueError, match=words):
        PriorConfig(**{**fields, **change})


def test_named_prior_sizes_scale_with_image_size():
    assert resolve_sizes("voc", 6, 300) == SSD300_VOC
    assert resolve_sizes("coco", 6, 600) == pytest.approx([2 * s for s in SSD300_COCO])
    assert resolve_sizes("voc", 7, 512) == SSD512_VOC
    assert resolve_sizes([1, 2, 3], 2, 100) == (1.0, 2.0, 3.0)
    assert resolve_sizes("geometric", 2, 100, 0.25) == pytest.approx([25, 50, 100])
    assert linear_scales(6) == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0])
    assert geometric_scales(3, 0.125) == pytest.approx([0.125, 0.25, 0.5, 1.0])
    with pytest.raises(
        ValueError, match="list of 5 sizes in pixels, or for a model of 4 levels one of linear, geometric"
    ):
        resolve_sizes("voc", 4, 128)
    with pytest.raises(ValueError, match="sizes must have one entry more than there are levels, 7, got 6"):
        ssd300(SSD300_VOC[:-1])
