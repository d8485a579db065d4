"""Arguments that are no tensors or numbers of the right kind: one error that names them; NumPy numbers are accepted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ssd_ops
from tests.ops.boxes import assert_equal
from tests.ops.conftest import Implementation

BOXES, SCORES, CLASSES = torch.rand(3, 4), torch.rand(3), torch.zeros(3, dtype=torch.int64)
BATCH, LOGITS = torch.rand(1, 3, 4), torch.rand(1, 3, 2)
NMS = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates_per_class": 4, "max_detections": 4}
SOFT = {"score_threshold": 0.1, "max_detections": 4}
LOSS = (BATCH, LOGITS, BATCH, CLASSES[None])
IMAGE = torch.zeros(3, 2, 2, dtype=torch.uint8)
ARGUMENTS: dict[str, tuple[tuple[str, Any], ...]] = {
    **{
        metric: (("boxes1", BOXES), ("boxes2", BOXES))
        for metric in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
    },
    "encode_boxes": (("boxes", BOXES), ("priors", BOXES)),
    "decode_boxes": (("deltas", BOXES), ("priors", BOXES)),
    "match_priors": (("gt_boxes[0]", [BOXES]), ("gt_labels[0]", [CLASSES + 1]), ("priors", BOXES)),
    "multibox_loss": tuple(zip(("loc", "logits", "loc_targets", "labels"), LOSS, strict=True)),
    "nms": (("boxes", BOXES), ("scores", SCORES), ("", 0.5)),
    "batched_nms": (("boxes", BOXES), ("scores", SCORES), ("idxs", CLASSES), ("", 0.5)),
    "multiclass_nms": (("boxes", BATCH), ("scores", LOGITS)),
    "soft_nms": (("boxes", BATCH), ("scores", LOGITS)),
    "detect": (("loc", BATCH), ("logits", LOGITS), ("priors", BOXES)),
    "render_images": (("images[0]", [IMAGE]), ("crops", BOXES[:1]), ("", 2)),
}
OPTIONS = {"multiclass_nms": NMS, "soft_nms": SOFT}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_argument_that_is_no_tensor(impl: Implementation, name: str) -> None:
    values = [value for _, value in ARGUMENTS[name]]
    for place, (argument, value) in enumerate(ARGUMENTS[name]):
        if not argument:
            continue
        tensor = value[0] if isinstance(value, list) else value
        for wrong, words in (
            (tensor.numpy(), "must be a torch.Tensor, got numpy.ndarray"),
            (None, "must be a torch.Tensor, got NoneType"),
            (tensor.to_sparse(), "must be a dense tensor, got layout torch.sparse_coo"),
            (torch.nested.nested_tensor([tensor]), "must be a dense tensor, got a nested one"),
        ):
            given = [*values[:place], [wrong] if isinstance(value, list) else wrong, *values[place + 1 :]]
            with pytest.raises(TypeError) as raised:
                getattr(impl, name)(*given, **OPTIONS.get(name, {}))
            assert str(raised.value).startswith(f"{argument} {words}")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("multiclass_nms", {"candidates_per_class": torch.tensor(3.7)}, "candidates_per_class must be an integer, got"),
        ("multiclass_nms", {"max_detections": 2.0}, "max_detections must be an integer, got 2.0"),
        ("multiclass_nms", {"score_threshold": None}, "score_threshold must be a number, got None"),
        ("soft_nms", {"sigma": "0.5"}, "sigma must be a number, got '0.5'"),
        ("soft_nms", {"max_detections": "9"}, "max_detections must be an integer, got '9'"),
        ("detect", {"variances": 0.1}, "variances must be 2 or 4 numbers above 0, got 0.1"),
        ("detect", {"variances": (0.1, None)}, r"variances\[1\] must be a number, got None"),
        ("encode_boxes", {"variances": "12"}, "variances must be 2 or 4 numbers above 0, got '12'"),
        ("match_priors", {"iou_threshold": BOXES}, "iou_threshold must be a number, got"),
        ("multibox_loss", {"min_negatives": 1.5}, "min_negatives must be an integer, got 1.5"),
        ("render_images", {"fill": 0.5}, "fill must be 3 numbers, got 0.5"),
    ],
)
def test_option_that_is_no_number(impl: Implementation, name: str, change: dict[str, Any], message: str) -> None:
    values = [value for _, value in ARGUMENTS[name]]
    with pytest.raises(TypeError, match=message):
        getattr(impl, name)(*values, **{**OPTIONS.get(name, {}), **change})


def test_number_of_more_than_64_bits() -> None:
    with pytest.raises(RuntimeError, match=r"^max_detections must be less than 2147483648"):
        ssd_ops.detect(BOXES[None], BOXES[None], BOXES, max_detections=2**70)
    with pytest.raises(RuntimeError, match=r"^candidates_per_class must be a number of 64 bits, got .* of 71 bits$"):
        ssd_ops.detect(BOXES[None], BOXES[None], BOXES, candidates_per_class=2**70)
    with pytest.raises(RuntimeError, match=r"^iou_threshold must be a number of 64 bits, got an integer of 1329 bits$"):
        ssd_ops.nms(BOXES, BOXES[:, 0], 10**400)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("multiclass_nms", "score_threshold"),
        ("soft_nms", "sigma"),
        ("match_priors", "iou_threshold"),
        ("detect", "variances"),
        ("encode_boxes", "variances"),
        ("multibox_loss", "neg_pos_ratio"),
        ("render_images", "mean"),
    ],
)
def test_option_that_requires_a_gradient(impl: Implementation, name: str, option: str) -> None:
    values, options = [value for _, value in ARGUMENTS[name]], OPTIONS.get(name, {})
    number = torch.tensor({"variances": [0.1, 0.2], "mean": [1.0, 2.0, 3.0]}.get(option, 0.5), requires_grad=True)
    with pytest.raises(RuntimeError, match=rf"^{option}.* must be a number, got a tensor that requires a gradient"):
        getattr(impl, name)(*values, **{**options, option: number})
    found = getattr(impl, name)(*values, **{**options, option: number.detach()})
    with torch.no_grad():
        assert_equal(getattr(impl, name)(*values, **{**options, option: number}), found)


def test_gradient_of_eps() -> None:
    eps = torch.tensor(1e-3, requires_grad=True)
    for impl in (ssd_ops.distance_box_iou, ssd_ops.complete_box_iou):
        assert torch.autograd.grad(impl(BOXES, BOXES.flip(1), eps).sum(), eps)[0].isfinite()


def test_numpy_numbers(impl: Implementation) -> None:
    options = {"score_threshold": np.float32(0.125), "iou_threshold": np.float64(0.5), "min_size": 0}
    counts = {"candidates_per_class": np.int64(4), "max_detections": np.uint8(4)}
    found = impl.multiclass_nms(BATCH, LOGITS, **options, **counts)
    for value, expected in zip(
        found, impl.multiclass_nms(BATCH, LOGITS, **{**NMS, "score_threshold": 0.125}), strict=True
    ):
        assert_equal(value, expected)
    assert_equal(impl.nms(BOXES, SCORES, np.float32(0.5)), impl.nms(BOXES, SCORES, 0.5))
    variances = np.array([0.1, 0.2])
    assert_equal(impl.decode_boxes(BOXES, BOXES, variances), impl.decode_boxes(BOXES, BOXES, (0.1, 0.2)))


def test_labels_of_images_without_objects(impl: Implementation) -> None:
    """torch.tensor([]) is float32; labels in a column are not packed labels."""
    priors = torch.tensor([[0.0, 0, 1, 1]])
    found = impl.match_priors([priors[:0], priors], [torch.tensor([]), torch.tensor([3])], priors)
    assert found.labels.tolist() == [[0], [3]]
    alone = impl.match_priors([torch.tensor([])], [torch.tensor([])], priors, ignore=[torch.tensor([])])
    assert alone.labels.tolist() == [[0]]
    with pytest.raises(RuntimeError, match=r"gt_labels\[0\] must have shape \[1\] like gt_boxes\[0\], got \[1, 1\]"):
        impl.match_priors([priors], [torch.tensor([[3]])], priors)
