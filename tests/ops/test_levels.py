"""multibox_loss and detect on one tensor for each feature level: bit-equal to concatenated rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ssd_ops
from ssd_ops import onnx_forms, reference
from ssd_ops.reference.levels import rows_of_levels
from tests.ops.boxes import assert_all_equal, random_boxes
from tests.ops.conftest import Implementation, has_compiled_kernels
from tests.ops.levels import Cells, as_levels
from tests.ops.losses import batch

# above and below the tiles of the kernels (4, 32 and 64 rows), one cell, and levels without priors
CELLS: Cells = ((7, 5, 2), (0, 3, 4), (3, 3, 4), (1, 1, 3), (2, 0, 1))
PRIORS = 70 + 36 + 3
LAYOUTS = (torch.channels_last, torch.contiguous_format)


def losses_and_gradients(impl: Implementation, loc: Any, logits: Any, *targets: Tensor, **options: Any) -> list[Tensor]:
    is_rows = isinstance(loc, Tensor)
    leaves = [t.detach().requires_grad_() for t in ([loc, logits] if is_rows else [*loc, *logits])]
    count = len(leaves) // 2
    outputs = leaves if is_rows else [leaves[:count], leaves[count:]]
    losses = impl.multibox_loss(*outputs, *targets, **options)
    grads = torch.autograd.grad(losses[0] * 2 + losses[1] * 0.5, leaves)
    assert all(grad.dtype == leaf.dtype for grad, leaf in zip(grads, leaves, strict=True))
    return [*losses, *(grads if is_rows else rows_of_levels(grads[:count], grads[count:]))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize(("images", "classes"), [(1, 3), (3, 21), (2, 91)])
def test_loss_is_that_of_rows(
    impl: Implementation, images: int, classes: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    loc, logits, *targets = batch(images, PRIORS, classes, dtype)
    levels = as_levels(loc, CELLS, layout), as_levels(logits, CELLS, layout)
    for options in ({}, {"normalizer": "image", "min_negatives": 4}, {"mining": "batch"}):
        expected = losses_and_gradients(impl, loc, logits, *targets, **options)
        found = losses_and_gradients(impl, *levels, *targets, **options)
        assert_all_equal(found[2:], expected[2:])
        # Sums run in float64 in an order that may depend on the levels: for float32 they are rounded once after that.
        rtol = 1e-15 if dtype == torch.float64 else 0
        torch.testing.assert_close(found[:2], expected[:2], rtol=rtol, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"multi_label": False, "clip": False}])
@pytest.mark.parametrize(("images", "classes", "dtype"), [(1, 3, torch.float32), (2, 21, torch.float16)])
def test_detections_are_those_of_rows(
    impl: Implementation, images: int, classes: int, dtype: torch.dtype, options: Any, layout: torch.memory_format
) -> None:
    loc, logits, *_ = batch(images, PRIORS, classes, dtype)
    priors, levels = random_boxes(PRIORS), (as_levels(loc, CELLS, layout), as_levels(logits, CELLS, layout))
    expected = impl.detect(loc, logits, priors, score_threshold=0.1, max_detections=40, **options)
    assert expected.counts.all()
    found = impl.detect(*levels, priors, score_threshold=0.1, max_detections=40, **options)
    assert_all_equal(found, expected)


def test_rows_of_an_image_are_ordered_by_level_row_column_and_prior(impl: Implementation) -> None:
    logits = [torch.zeros(1, 4, 2, 3), torch.zeros(1, 2, 1, 1)]  # A = 2 and 1, C = 2
    logits[0][0, 3, 1, 0] = 9  # class 1 of the second prior of cell (0, 1)
    logits[1][0, 1, 0, 0] = 8
    loc = [torch.zeros(1, 8, 2, 3), torch.zeros(1, 4, 1, 1)]
    priors = torch.arange(13)[:, None] + torch.tensor([0.0, 0.0, 0.5, 0.5])
    found = impl.detect(loc, logits, priors, score_threshold=0.9, clip=False, max_detections=3)
    assert found.boxes[0, :2, 0].tolist() == [(1 * 3 + 0) * 2 + 1, 12] and found.counts.tolist() == [2]


@pytest.mark.skipif(not has_compiled_kernels(), reason="autograd chooses the layout where the reference runs")
def test_gradients_are_in_channels_last() -> None:
    loc, logits, *targets = batch(2, PRIORS, 3)
    for layout in LAYOUTS:
        levels = [t.requires_grad_() for t in (*as_levels(loc, CELLS, layout), *as_levels(logits, CELLS, layout))]
        losses = ssd_ops.multibox_loss(levels[: len(CELLS)], levels[len(CELLS) :], *targets)
        for grad in torch.autograd.grad(sum(losses), levels):
            assert grad.is_contiguous(memory_format=torch.channels_last)


def test_more_levels_than_the_kernels_take(impl: Implementation) -> None:
    loc, logits, *targets = batch(2, 20, 3)
    cells = ((1, 1, 1),) * 20
    levels = as_levels(loc, cells), as_levels(logits, cells)
    expected = losses_and_gradients(impl, loc, logits, *targets)
    assert_all_equal(losses_and_gradients(impl, *levels, *targets), expected)


def test_no_images(impl: Implementation) -> None:
    loc, logits, *targets = batch(0, PRIORS, 3)
    levels = as_levels(loc, CELLS), as_levels(logits, CELLS)
    assert [x.item() for x in impl.multibox_loss(*levels, *targets)] == [0.0, 0.0]
    assert impl.detect(*levels, random_boxes(PRIORS)).boxes.shape == (0, 200, 4)


def test_gradients_of_the_op_are_those_of_the_function() -> None:
    """torch.compile traces the op, which is then computed from rows."""
    loc, logits, *targets = batch(2, PRIORS, 3)
    levels = [t.requires_grad_() for t in (*as_levels(loc, CELLS), *as_levels(logits, CELLS))]
    by_op = torch.ops.ssd_ops.multibox_loss_levels(levels[: len(CELLS)], levels[len(CELLS) :], *targets)[:2]
    losses = ssd_ops.multibox_loss(levels[: len(CELLS)], levels[len(CELLS) :], *targets)
    assert_all_equal(by_op, losses)
    assert_all_equal(*(torch.autograd.grad(sum(total), levels) for total in (by_op, losses)))


def test_vmap_of_the_op_equals_single_calls() -> None:
    """torch.compile traces the op within torch.vmap."""
    loc, logits, targets, labels = batch(2, PRIORS, 3)
    levels = [level.detach()[:, None] for level in (*as_levels(loc, CELLS), *as_levels(logits, CELLS))]
    count = len(CELLS)

    def losses(*args: Tensor) -> Any:
        return torch.ops.ssd_ops.multibox_loss_levels([*args[2:][:count]], [*args[2:][count:]], *args[:2])[:2]

    found = torch.vmap(losses)(targets[:, None], labels[:, None], *levels)
    each = [losses(targets[i : i + 1], labels[i : i + 1], *(level[i] for level in levels)) for i in range(2)]
    assert_all_equal(found, [torch.stack(parts) for parts in zip(*each, strict=True)])


LOC, LOGITS = (torch.zeros(2, 8, 3, 3), torch.zeros(2, 4, 1, 1)), (torch.zeros(2, 6, 3, 3), torch.zeros(2, 3, 1, 1))
DETECT, LOSS = "detect", "multibox_loss"
FLOATS = "float16, bfloat16, float32 or float64"
ERRORS: list[tuple[Any, Any, str]] = [
    ([], [], "loc must be a list of at least 1 tensor, got a list of 0"),
    (LOC, LOGITS[:1], "logits must be a list of 2 tensors like loc, got a list of 1"),
    (LOC, LOGITS[0], "logits must be a list with one tensor for each level like loc, got a tensor"),
    (LOC[0], LOGITS, "loc must be a list with one tensor for each level like logits, got a tensor"),
    ([LOC[0][0], LOC[1]], LOGITS, "loc[0] must have shape [B, A * 4, H, W], got [8, 3, 3]"),
    ([LOC[0][:, :6], LOC[1]], LOGITS, "loc[0] must have shape [B, A * 4, H, W], got [2, 6, 3, 3]"),
    ([LOC[0], LOC[1][:1]], LOGITS, "loc[1] must have shape [2, A * 4, H, W], got [1, 4, 1, 1]"),
    (LOC, [LOGITS[0][..., :2], LOGITS[1]], "logits[0] must have shape [2, 2 * C, 3, 3], got [2, 6, 3, 2]"),
    (LOC, [LOGITS[0][:, :5], LOGITS[1]], "logits[0] must have shape [2, 2 * C, 3, 3], got [2, 5, 3, 3]"),
    (LOC, [LOGITS[0], LOGITS[1][:, :2]], "logits[1] must have shape [2, 1 * 3, 1, 1], got [2, 2, 1, 1]"),
    (LOC, [t[:, :0] for t in LOGITS], "logits[0] must have at least 1 class, the background, got shape [2, 0, 3, 3]"),
    ([LOC[0], LOC[1].half()], LOGITS, "loc[1] must have the dtype of loc[0], float32, got float16"),
    (LOC, [t.cfloat() for t in LOGITS], f"logits[0] must be {FLOATS}, got complex64"),
]


def test_batched_gradients_equal_single_ones() -> None:
    loc, logits, *targets = batch(2, PRIORS, 3, torch.float64)
    leaves = [t.requires_grad_() for t in (*as_levels(loc, CELLS), *as_levels(logits, CELLS))]
    count = len(leaves) // 2
    losses = torch.stack(ssd_ops.multibox_loss(leaves[:count], leaves[count:], *targets))
    weights = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
    batched = torch.autograd.grad(losses, leaves, weights, retain_graph=True, is_grads_batched=True)
    for row, weight in enumerate(weights):
        single = torch.autograd.grad(losses, leaves, weight, retain_graph=True)
        torch.testing.assert_close([grad[row] for grad in batched], list(single))


@pytest.mark.parametrize(("loc", "logits", "error"), ERRORS)
def test_errors(impl: Implementation, loc: Any, logits: Any, error: str) -> None:
    others = (torch.zeros(2, 19, 4), torch.zeros(2, 19, dtype=torch.int64))
    for call in (
        lambda: impl.detect(loc, logits, torch.zeros(19, 4)),
        lambda: impl.multibox_loss(loc, logits, *others),
    ):
        with pytest.raises(RuntimeError) as raised:
            call()
        assert str(raised.value).splitlines()[0] == error
    if isinstance(loc, Tensor) or isinstance(logits, Tensor) or impl.name == "reference":
        return
    with pytest.raises(RuntimeError) as raised:  # the op itself, below the public function
        torch.ops.ssd_ops.detect_levels([*loc], [*logits], torch.zeros(19, 4))
    assert error in str(raised.value)


def test_reference_takes_levels() -> None:
    loc, logits, *targets = batch(2, PRIORS, 3)
    levels = as_levels(loc, CELLS), as_levels(logits, CELLS)
    assert_all_equal(rows_of_levels(*levels), (loc, logits))
    assert_all_equal(reference.multibox_loss(*levels, *targets), reference.multibox_loss(loc, logits, *targets))


def test_a_program_of_any_batch_size_takes_levels() -> None:
    class Post(torch.nn.Module):
        def forward(self, loc: Tensor, logits: Tensor, priors: Tensor) -> list[Tensor]:
            return list(ssd_ops.detect([loc], [logits], priors))

    priors, batch_size = random_boxes(12), torch.export.Dim("batch", min=2, max=64)
    inputs = torch.randn(3, 8, 2, 3), torch.randn(3, 10, 2, 3), priors
    shapes = {"loc": {0: batch_size}, "logits": {0: batch_size}, "priors": None}
    program = torch.export.export(Post(), inputs, dynamic_shapes=shapes).module()
    loc, logits = torch.randn(5, 8, 2, 3), torch.randn(5, 10, 2, 3)
    assert_all_equal(program(loc, logits, priors), ssd_ops.detect([loc], [logits], priors))


def test_onnx_form_validates_levels() -> None:
    with pytest.raises(RuntimeError, match=r"^logits\[0\] must have shape"):
        arguments = ssd_ops._schemas.SCHEMAS["detect_levels"].complete
        onnx_forms.call(
            "detect_levels", *arguments(([torch.zeros(1, 8, 2, 3)], [torch.zeros(1, 6, 3, 2)], random_boxes(12)))
        )
