"""The matrices of the IoU family and their gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torchvision

import ssd_ops
from tests.ops.boxes import assert_all_equal, assert_equal, degenerate_boxes, random_boxes, tied_boxes
from tests.ops.conftest import Implementation
from tests.ops.remembered import reference

EXACT = ("box_iou", "generalized_box_iou", "distance_box_iou")
METRICS = (*EXACT, "complete_box_iou")
# Complete IoU passes through atan, which libraries round differently: a few units of the last place of 1.
ATAN = {"rtol": 0, "atol": 1e-6}
# Sums of a gradient run in another order than those of autograd: relative to the largest number of the gradient.
SUMS = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 2e-3, torch.bfloat16: 1e-2}

# Rows and columns around the sizes of tiles: 16 lanes, 32 and 64 rows, 512 columns.
SIZES = [(1, 1), (5, 15), (17, 16), (31, 33), (33, 63), (64, 64), (65, 65), (3, 511), (2, 513), (200, 20), (1, 1100)]


def compare(impl: Implementation, metric: str, boxes1: torch.Tensor, boxes2: torch.Tensor) -> None:
    actual, expected = (getattr(f, metric)(boxes1, boxes2) for f in (impl, ssd_ops.reference))
    if metric in EXACT:
        assert_equal(actual, expected)
    else:
        torch.testing.assert_close(actual, expected, equal_nan=True, **ATAN)


def compare_grads(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype
    largest = expected.abs().max().item() if expected.numel() else 0
    torch.testing.assert_close(actual, expected, rtol=0, atol=SUMS[expected.dtype] * largest, equal_nan=True)


def grads(impl: Implementation, metric: str, boxes1: torch.Tensor, boxes2: torch.Tensor, grad: torch.Tensor):
    inputs = [boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()]
    getattr(impl, metric)(*inputs).backward(grad)
    return inputs[0].grad, inputs[1].grad


def test_literal(impl: Implementation) -> None:
    boxes1 = torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 1]])
    boxes2 = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 1], [5, 5, 6, 6]])
    iou = torch.tensor([[1 / 7, 1 / 2, 0], [0, 1 / 2, 0]])
    assert_equal(impl.box_iou(boxes1, boxes2), iou)
    # Minus the fraction of the enclosing box, 3 x 3, 2 x 2, 6 x 6 and 4 x 3, 4 x 1, 6 x 6, that neither covers.
    uncovered = torch.tensor([[2 / 9, 0, 31 / 36], [4 / 12, 0, 31 / 36]])
    torch.testing.assert_close(impl.generalized_box_iou(boxes1, boxes2), iou - uncovered)
    # Squared distances of the centers over squared diagonals.
    distance = torch.tensor([[2 / 18, 0.25 / 8, 40.5 / 72], [2.25 / 25, 1 / 17, 37.25 / 72]])
    torch.testing.assert_close(impl.distance_box_iou(boxes1, boxes2), iou - distance)
    # Aspect angles are 45 degrees for all but boxes1[1] (atan 4) and boxes2[1] (atan 2).
    angle1, angle2 = torch.tensor([1.0, 4]).atan(), torch.tensor([1.0, 2, 1]).atan()
    unlike = 4 / torch.pi**2 * (angle1[:, None] - angle2) ** 2
    expected = iou - distance - unlike**2 / (1 - iou + unlike)
    torch.testing.assert_close(impl.complete_box_iou(boxes1, boxes2), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_sizes(impl: Implementation, metric: str) -> None:
    for n, m in SIZES:
        compare(impl, metric, random_boxes(n, seed=n), random_boxes(m, seed=m + 1))
        compare(impl, metric, tied_boxes(n, seed=n), tied_boxes(m, seed=m + 1))


@pytest.mark.parametrize("metric", METRICS)
def test_batches_of_several_tiles(impl: Implementation, metric: str) -> None:
    for n, m in ((131, 1030), (64, 512), (3, 513), (65, 511)):
        boxes1, boxes2 = random_boxes(3, n), random_boxes(3, m)
        compare(impl, metric, boxes1, boxes2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_degenerate_and_non_finite_boxes(impl: Implementation, metric: str, dtype: torch.dtype) -> None:
    compare(impl, metric, degenerate_boxes(dtype), degenerate_boxes(dtype))


@pytest.mark.parametrize("metric", METRICS)
def test_magnitudes(impl: Implementation, metric: str) -> None:
    """On a GPU pairs of boxes of ordinary sizes are divided in another way than tiny and huge ones."""
    for scale in (1e-19, 1e-4, 1.0, 300.0, 3e4, 1e9):
        boxes1, boxes2 = random_boxes(20, seed=3, scale=scale), random_boxes(130, seed=4, scale=scale)
        compare(impl, metric, boxes1, boxes2)
        boxes1[::9], boxes2[::17] = boxes1[::9] * 1e-5, boxes2[::17] - 0.3 * scale
        compare(impl, metric, boxes1, boxes2)


def test_degenerate_boxes_have_iou_0(impl: Implementation) -> None:
    boxes = torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 2], [2, 2, 0, 0], [0, 1, 2, 1]])
    expected = torch.zeros(4, 4)
    expected[1, 1] = 1
    assert_equal(impl.box_iou(boxes, boxes), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_equals_torchvision(impl: Implementation, metric: str) -> None:
    boxes1, boxes2 = random_boxes(40, seed=1, scale=300), random_boxes(70, seed=2, scale=300)
    actual, expected = getattr(impl, metric)(boxes1, boxes2), getattr(torchvision.ops, metric)(boxes1, boxes2)
    if metric == "box_iou":
        assert_equal(actual, expected)
    else:  # torchvision adds in another order
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_dtypes(impl: Implementation, metric: str) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.uint8):
        boxes = random_boxes(20, scale=50).to(dtype)
        assert_equal(getattr(impl, metric)(boxes, boxes), getattr(impl, metric)(boxes.float(), boxes.float()))
    double = random_boxes(20, dtype=torch.float64)
    assert getattr(impl, metric)(double, double).dtype == torch.float64
    compare(impl, metric, double, double)
    mixed = getattr(impl, metric)(double, double.float())
    assert_equal(mixed, getattr(impl, metric)(double, double.float().double()))


@pytest.mark.parametrize("metric", METRICS)
def test_leading_dimensions_broadcast(impl: Implementation, metric: str) -> None:
    if impl.name == "reference":
        pytest.skip("the public functions expand")
    boxes1, boxes2 = random_boxes(3, 1, 5, seed=1), random_boxes(2, 7, seed=2)
    actual = getattr(impl, metric)(boxes1, boxes2)
    assert actual.shape == (3, 2, 5, 7)
    for i in range(3):
        for j in range(2):
            assert_equal(actual[i, j], getattr(impl, metric)(boxes1[i, 0], boxes2[j]))


@pytest.mark.parametrize("shapes", [((0, 4), (5, 4)), ((5, 4), (0, 4)), ((0, 3, 4), (0, 2, 4)), ((2, 0, 4), (2, 0, 4))])
def test_empty(impl: Implementation, shapes: tuple[tuple[int, ...], ...]) -> None:
    for metric in METRICS:
        boxes1, boxes2 = torch.ones(shapes[0]), torch.ones(shapes[1])
        expected = torch.zeros(*shapes[0][:-1], shapes[1][-2])
        assert_equal(getattr(impl, metric)(boxes1, boxes2), expected)
        assert_all_equal(grads(impl, metric, boxes1, boxes2, expected), (boxes1 * 0, boxes2 * 0))


def test_not_contiguous_and_not_aligned(impl: Implementation) -> None:
    columns = random_boxes(30).T.contiguous().T
    shifted = torch.cat([torch.zeros(1), random_boxes(30, seed=1).flatten()])[1:].reshape(30, 4)
    every_other = random_boxes(60, seed=2)[::2]
    for boxes1 in (columns, shifted, every_other):
        for boxes2 in (columns, shifted, every_other):
            expected = impl.box_iou(boxes1.clone(memory_format=torch.contiguous_format), boxes2.contiguous().clone())
            assert_equal(impl.box_iou(boxes1, boxes2), expected)


def test_out(impl: Implementation) -> None:
    if impl.device.type != "cpu":
        pytest.skip("the fixture copies tensors to the device")
    boxes1, boxes2, out = random_boxes(5), random_boxes(7, seed=1), torch.full((5, 7), -1.0)
    assert impl.box_iou(boxes1, boxes2, out=out).data_ptr() == out.data_ptr()
    assert_equal(out, impl.box_iou(boxes1, boxes2))


def test_invariants(impl: Implementation) -> None:
    boxes1, boxes2 = random_boxes(50, seed=1), random_boxes(60, seed=2)
    for metric in METRICS:
        matrix = getattr(impl, metric)(boxes1, boxes2)
        assert_equal(matrix, getattr(impl, metric)(boxes2, boxes1).T.contiguous())
        assert ((matrix <= 1) & (matrix > -2)).all()
        if metric != "box_iou":
            assert (matrix <= impl.box_iou(boxes1, boxes2) + 1e-6).all()
    assert_equal(impl.box_iou(boxes1, boxes1).diagonal(), torch.ones(50))


@pytest.mark.parametrize("metric", EXACT)  # the weight of complete IoU counts as a constant: finite differences differ
def test_gradcheck(impl: Implementation, metric: str) -> None:
    boxes1 = random_boxes(2, 4, seed=1, dtype=torch.float64).requires_grad_()
    boxes2 = random_boxes(2, 5, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(getattr(impl, metric), (boxes1, boxes2))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("make", [random_boxes, tied_boxes])
def test_gradients(impl: Implementation, metric: str, make) -> None:
    """Half each to equal corners, all of it at the clamps, none of it for empty unions, sums over many tiles."""
    if impl.name == "reference":
        pytest.skip("it is what the others are compared with")
    sizes = [(1, 1), (17, 16), (33, 513), (70, 65)] + ([] if impl.name == "emulated" else [(70, 4700)])
    for n, m in sizes:
        for dtype in SUMS if n == 17 else (torch.float32,):
            boxes1, boxes2 = make(n, seed=n, dtype=dtype), make(m, seed=m + 1, dtype=dtype)
            grad = torch.randn(n, m, generator=torch.Generator().manual_seed(n))
            grad = grad.double() if dtype == torch.float64 else grad
            actual = grads(impl, metric, boxes1, boxes2, grad)
            for one, other in zip(actual, grads(ssd_ops.reference, metric, boxes1, boxes2, grad), strict=True):
                compare_grads(one, other)
            assert_all_equal(grads(impl, metric, boxes1, boxes2, grad), actual)  # the same bits again


def test_gradient_of_batches_is_that_of_each_image(impl: Implementation) -> None:
    boxes1, boxes2, grad = random_boxes(3, 20, seed=1), random_boxes(3, 30, seed=2), torch.rand(3, 20, 30)
    both = grads(impl, "generalized_box_iou", boxes1, boxes2, grad)
    for i in range(3):
        assert_all_equal([g[i] for g in both], grads(impl, "generalized_box_iou", boxes1[i], boxes2[i], grad[i]))


def test_gradient_at_ties(impl: Implementation) -> None:
    """Two equal unit boxes: each gets half of the gradient of all four corners."""
    box = torch.tensor([[0.0, 0, 1, 1]])
    for grad in grads(impl, "box_iou", box, box, torch.ones(1, 1)):
        assert_equal(grad, torch.zeros(1, 4))
    # Boxes that touch: the side of 0 passes its gradient, 1 / union of 2, to the two edges that meet.
    first, second = grads(impl, "box_iou", box, torch.tensor([[1.0, 0, 2, 1]]), torch.ones(1, 1))
    assert_equal(first, torch.tensor([[0, 0, 0.5, 0]]))
    assert_equal(second, torch.tensor([[-0.5, 0, 0, 0]]))


def test_gradient_of_flat_boxes_is_finite(impl: Implementation) -> None:
    boxes = torch.tensor([[0.0, 1, 2, 1], [0, 0, 2, 2], [1, 1, 1, 1], [1, 0, 1, 2]])
    actual = grads(impl, "complete_box_iou", boxes, boxes.flip(0), torch.ones(4, 4))
    for one, other in zip(
        actual, grads(ssd_ops.reference, "complete_box_iou", boxes, boxes.flip(0), torch.ones(4, 4)), strict=True
    ):
        assert one.isfinite().all()
        compare_grads(one, other)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("side", (1e-6, 1e-8, 1e-20, 1e-39, -1e-20))
def test_gradient_of_nearly_flat_boxes(impl: Implementation, metric: str, side: float) -> None:
    """Width over height overflows, or its square does; in float64 neither."""
    thin = torch.tensor([[0.0, 0.0, 2.0, side], [0.0, -side, side, 1.0]], requires_grad=True)
    wide, others = thin.detach().double().requires_grad_(), random_boxes(3)
    expected = torch.autograd.grad(getattr(reference, metric)(wide, others.double()).sum(), wide)[0]
    (found,) = torch.autograd.grad(getattr(impl, metric)(thin, others).sum(), thin)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-5)


def test_result_is_independent_of_threads(impl: Implementation) -> None:
    if impl.name != "cpu":
        pytest.skip("of the CPU kernels")
    boxes1, boxes2 = random_boxes(150, seed=1), random_boxes(1100, seed=2)
    run = partial(grads, impl, "distance_box_iou", boxes1, boxes2, torch.ones(150, 1100))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append((impl.box_iou(boxes1, boxes2), *run()))
    finally:
        torch.set_num_threads(threads)
    for result in results:
        assert_all_equal(result, results[0])


@pytest.mark.parametrize("metric", METRICS)
def test_compile(impl: Implementation, metric: str) -> None:
    if impl.name == "reference":
        pytest.skip("the graph holds the op, not what implements it")
    compiled = torch.compile(getattr(ssd_ops, metric), fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (5, 9):
        boxes1, boxes2 = random_boxes(n, seed=1).to(impl.device), random_boxes(7, seed=2).to(impl.device)
        assert_equal(compiled(boxes1, boxes2), getattr(ssd_ops, metric)(boxes1, boxes2))
        boxes1.requires_grad_()
        compiled(boxes1, boxes2).sum().backward()
        assert boxes1.grad is not None and boxes1.grad.isfinite().all()
