"""Crop, resize, flip, colors and normalization of uint8 images: the same bits in every implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

import ssd_ops
from ssd_ops import reference
from tests.ops.boxes import assert_equal
from tests.ops.conftest import Implementation

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NORMALIZED = {"mean": (123.0, 117.0, 104.0), "std": (58.4, 57.1, 57.4), "fill": (10.0, 20.0, 255.0)}


def random_image(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8)


def color_matrices_of(count: int) -> Tensor:
    return torch.eye(3, 4) + torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(0)) * 0.4


def compare(impl: Implementation, images: list[Tensor], crops: Tensor, size: int, **options: Any) -> Tensor:
    actual = impl.render_images(images, crops, size, **options)
    assert_equal(actual, reference.render_images(images, crops, size, **options))
    return actual


def test_literal(impl: Implementation) -> None:
    image = torch.tensor([[[0, 100], [20, 200]]]).repeat(3, 1, 1).to(torch.uint8)
    whole = torch.tensor([[0.0, 0, 2, 2]])
    # Twice as large: a quarter of a pixel from the edge takes 3/4 of the nearest pixel and 1/4 of the next.
    row = torch.tensor([0.0, 25, 75, 100]), torch.tensor([20.0, 65, 155, 200])
    rows = torch.stack([row[0], row[0] * 0.75 + row[1] * 0.25, row[0] * 0.25 + row[1] * 0.75, row[1]])
    assert_equal(compare(impl, [image], whole, 4)[0], rows.repeat(3, 1, 1))
    assert_equal(compare(impl, [image], whole, 2)[0], image.float())
    mean = compare(impl, [image], whole, 1)
    assert_equal(mean, torch.full((1, 3, 1, 1), 80.0))
    # Twice as wide as the image, which is in its right half; flipped, in its left one. The fill keeps its color.
    beyond, brighter = torch.tensor([[-2.0, 0, 2, 2]]), torch.eye(3, 4)[None] * 2
    out = compare(impl, [image], beyond, 4, fill=(7, 8, 9), color_matrices=brighter, flip=torch.tensor([True]))
    assert_equal(out[0, :, :, 2:], torch.tensor([7.0, 8, 9])[:, None, None].expand(3, 4, 2))
    assert out[0, 0, 0].tolist() == [200, 0, 7, 7] and out[0, 0, 3, 0] == 255  # 400, clamped
    shifted = compare(impl, [image], whole, 2, mean=(10, 20, 30), std=(2, 4, 8))
    assert_equal(shifted[0, :, 1, 1], torch.tensor([95.0, 45, 21.25]))


def test_color_matrix_literal(impl: Implementation) -> None:
    image = torch.tensor([30, 60, 90]).view(3, 1, 1).to(torch.uint8)
    matrix = torch.tensor([[[0.0, 0, 1, 5], [0.5, 0.5, 0, 0], [-1, 0, 0, 0]]])
    out = compare(impl, [image], torch.tensor([[0.0, 0, 1, 1]]), 1, color_matrices=matrix)
    assert out.flatten().tolist() == [95, 45, 0]
    wild = compare(impl, [image], torch.tensor([[0.0, 0, 1, 1]]), 1, color_matrices=matrix * float("nan"))
    assert wild.flatten().tolist() == [0, 0, 0]


def test_hue_literal(impl: Implementation) -> None:
    nan, inf = float("nan"), float("inf")
    turns = [1 / 3, -1 / 3, 1 / 6, 0.5, 0, 1, nan, inf, -inf, 1e30]
    image, whole = torch.tensor([200, 80, 80]).view(3, 1, 1).to(torch.uint8), torch.tensor([[0.0, 0, 1, 1]])
    out = compare(impl, [image] * 10, whole.repeat(10, 1), 1, hue=torch.tensor(turns)).view(10, 3)
    red, green, blue, gray = [200, 80, 80], [80, 200, 80], [80, 80, 200], [80, 80, 80]
    expected = torch.tensor([green, blue, [200, 200, 80], [80, 200, 200], red, red, gray, gray, gray]).float()
    torch.testing.assert_close(out[:9], expected, rtol=0, atol=1e-4)  # thirds and sixths are no floats
    assert out[4].tolist() == red and (out >= 80).all() and (out <= 200).all()
    # After the colors, which are clamped: 100, 0, 0 has the hue that is shifted, not 100, -40, 0.
    color_matrices = torch.tensor([[[0.5, 0, 0, 0], [0, 0, 0, -40], [0, 0, 0, 0]]])
    out = compare(impl, [image], whole, 1, color_matrices=color_matrices, hue=torch.tensor([0.5]))
    torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 100, 100]), rtol=0, atol=1e-4)


def test_hue_equals_torchvision(impl: Implementation) -> None:
    image = random_image(20, 20)
    image[:, :5] = image[:1, :5]  # gray has no hue
    for turns in (-0.5, -0.05, 0.02, 0.4):
        expected = tv.adjust_hue(image.double() / 255, turns) * 255
        out = compare(impl, [image], torch.tensor([[0.0, 0, 20, 20]]), 20, hue=torch.tensor([turns]))
        # Some ten roundings of numbers up to 6 sixths, times 255 levels.
        torch.testing.assert_close(out[0].double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 31, 32, 33, 65])
def test_sizes(impl: Implementation, size: int, antialias: bool) -> None:
    images = [random_image(h, w, seed=h) for h, w in ((1, 1), (5, 130), (64, 63), (90, 7))]
    crops = torch.tensor([[0.0, 0, 1, 1], [3.5, -2.25, 100, 9], [10, 20, 41.5, 22], [-20, -30, 30, 200]])
    flip = torch.tensor([False, True, True, False])
    options = {
        "flip": flip,
        "color_matrices": color_matrices_of(4),
        "hue": torch.tensor([0.0, 0.3, -0.05, 7.7]),
        **NORMALIZED,
    }
    compare(impl, images, crops, size, antialias=antialias, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_strides(impl: Implementation, dtype: torch.dtype) -> None:
    images = [random_image(40, 50)[:, ::2].transpose(1, 2), random_image(30, 20)[..., 3:]]
    crops = torch.tensor([[1.0, 2, 3], [2, 3, 4], [12, 14, 1], [17, 19, 1]])[:, :2].T
    flip = torch.tensor([[True, False], [False, False]])[:, 0]
    color_matrices = color_matrices_of(2).transpose(1, 2).contiguous().transpose(1, 2)
    out = compare(impl, images, crops, 20, flip=flip, color_matrices=color_matrices, dtype=dtype, **NORMALIZED)
    assert out.dtype == dtype and out.shape == (2, 3, 20, 20)
    for kind in (torch.float64, torch.bfloat16):
        hue = torch.tensor([[0.3, 0.0], [-0.1, 0.0]], dtype=kind)[:, 0]
        compare(impl, images, crops.to(kind), 9, color_matrices=color_matrices.to(kind), hue=hue, dtype=dtype)


def test_packed_equals_list(impl: Implementation) -> None:
    images = [random_image(20, 30, seed=1), random_image(11, 7, seed=2)]
    crops = torch.tensor([[2.0, 3, 25, 19], [0, 0, 7, 11]])
    gap = torch.full((13,), 99, dtype=torch.uint8)  # an odd offset, and bytes that belong to no image
    packed = torch.cat([gap, images[1].flatten(), gap, images[0].flatten()])
    offsets, sizes = torch.tensor([13 + 231 + 13, 13]), torch.tensor([[20, 30], [11, 7]])
    out = impl.render_images(packed, crops, 16, offsets=offsets, sizes=sizes)
    assert_equal(out, impl.render_images(images, crops, 16))


def test_degenerate_and_non_finite_crops(impl: Implementation) -> None:
    nan, inf = float("nan"), float("inf")
    rows = [
        [5, 5, 5, 9], [9, 2, 3, 8], [3, 8, 9, 2], [nan, 0, 9, 9], [0, 0, 9, nan], [0, -inf, 9, 9], [0, 0, inf, 9],
        [50, 50, 60, 60], [-9, -9, 0, 0], [-3e38, 0, 3e38, 9],
    ]  # fmt: skip
    out = compare(impl, [random_image(20, 30)] * len(rows), torch.tensor(rows), 8, fill=(1, 2, 3))
    assert_equal(out, torch.tensor([1.0, 2, 3])[:, None, None].expand(len(rows), 3, 8, 8))
    rows = [[-1e30, -1e30, 1e29, 1e30], [0, 0, 1e9, 1e9], [3, 3, 3 + 1e-6, 9], [29.99, 19.99, 30.01, 20.01]]
    for antialias in (True, False):
        compare(impl, [random_image(20, 30)] * len(rows), torch.tensor(rows), 9, antialias=antialias)


def test_empty(impl: Implementation) -> None:
    assert impl.render_images([], torch.zeros(0, 4), 5, dtype=torch.float16).shape == (0, 3, 5, 5)
    images = [torch.zeros(3, 0, 4, dtype=torch.uint8), torch.zeros(3, 0, 0, dtype=torch.uint8), random_image(2, 2)]
    crops = torch.tensor([[0.0, 0, 4, 4]] * 3)
    out = compare(impl, images, crops, 4, fill=(1, 2, 3))
    assert (out[:2, 0] == 1).all() and (out[:2, 2] == 3).all()


def test_batch_equals_image_by_image(impl: Implementation) -> None:
    images = [random_image(30 + 9 * i, 50 - 7 * i, seed=i) for i in range(4)]
    crops = torch.tensor([[i * 3.0, 1, 40, 25 + i] for i in range(4)])
    color_matrices = color_matrices_of(4)
    whole = impl.render_images(images, crops, 40, color_matrices=color_matrices)
    for i in range(4):
        one = impl.render_images(images[i : i + 1], crops[i : i + 1], 40, color_matrices=color_matrices[i : i + 1])
        assert_equal(whole[i], one[0])


def test_result_is_independent_of_threads() -> None:
    images, crops = [random_image(90, 70)] * 3, torch.tensor([[0.0, 0, 70, 90], [5, 5, 60, 80], [-30, -10, 90, 99]])
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(ssd_ops.render_images(images, crops, 75))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert_equal(result, results[0])


@pytest.mark.parametrize("antialias", [True, False])
def test_equals_torchvision(impl: Implementation, antialias: bool) -> None:
    """On whole pixels this equals resized_crop, flip and normalize, but for torchvision's order of sums."""
    image = random_image(90, 140)
    for x1, y1, x2, y2 in ((0, 0, 140, 90), (11, 7, 131, 50), (60, 60, 70, 72)):
        expected = tv.resized_crop(image.float(), y1, x1, y2 - y1, x2 - x1, [48, 48], antialias=antialias)
        expected = tv.normalize(expected.flip(-1), NORMALIZED["mean"], NORMALIZED["std"])
        window = torch.tensor([[x1, y1, x2, y2]]).float()
        options = {"mean": NORMALIZED["mean"], "std": NORMALIZED["std"], "flip": torch.tensor([True])}
        actual = impl.render_images([image], window, 48, antialias=antialias, **options)
        torch.testing.assert_close(actual[0], expected, rtol=1e-4, atol=1e-4)


def test_invalid_offsets_on_a_device(impl: Implementation) -> None:
    """Where values are not validated, an image outside of the bytes gives `fill` only."""
    if impl.name in ("reference", "cpu"):
        pytest.skip("validates the values and raises, see test_errors")
    packed = random_image(10, 10).flatten()
    wrong = [(1, 10, 10), (-1, 5, 5), (0, -1, 5), (0, 5, 2**62), (2**62, 5, 5), (0, 40000, 0), (-(2**63), 1, 1)]
    places = torch.tensor(wrong)
    crops = torch.tensor([[0.0, 0, 5, 5]] * len(wrong))
    out = impl.render_images(packed, crops, 6, offsets=places[:, 0], sizes=places[:, 1:], fill=(4, 4, 4))
    assert (out == 4).all()
