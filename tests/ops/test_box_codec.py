"""Encode and decode, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

import ssd_ops
from tests.ops.boxes import assert_all_equal, assert_equal, degenerate_boxes, random_boxes, tied_boxes
from tests.ops.conftest import Implementation

CODE_TYPES = ("center_size", "corner", "corner_size")
VARIANCES = [0.1, 0.2, 0.3, 0.4]
# exp and log of several libraries, each within 2 units of the last place; divided by a variance, or times a prior.
LOG = {torch.float32: {"rtol": 1e-6, "atol": 2e-6}, torch.float64: {"rtol": 1e-14, "atol": 2e-14}}
# Gradients pass through exp or log and, for priors, through sums in another order than autograd's: relative to the
# largest number of the gradient.
SUMS = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def compare(impl: Implementation, op: str, coded: torch.Tensor, priors: torch.Tensor, code_type: str) -> None:
    """Exactly where there is no exp or log: in the corner codes, and in the centers of encoded boxes."""
    actual, expected = (getattr(f, op)(coded, priors, VARIANCES, code_type) for f in (impl, ssd_ops.reference))
    if code_type != "center_size":
        assert_equal(actual, expected)
        return
    if op == "encode_boxes":
        assert_equal(actual[..., :2], expected[..., :2])
    torch.testing.assert_close(actual, expected, equal_nan=True, **LOG[expected.dtype])


def grads(impl, op: str, coded: torch.Tensor, priors: torch.Tensor, code_type: str):  # type: ignore[no-untyped-def]
    inputs = [coded.clone().requires_grad_(), priors.clone().requires_grad_()]
    result = getattr(impl, op)(*inputs, VARIANCES, code_type)
    generator = torch.Generator().manual_seed(7)
    result.backward(torch.randn(result.shape, generator=generator, dtype=torch.float64).to(result.dtype))
    return [tensor.grad for tensor in inputs]


def test_literal(impl: Implementation) -> None:
    prior = torch.tensor([[1.0, 1, 3, 5]])  # center (2, 3), size (2, 4)
    box = torch.tensor([[2.0, 2, 6, 4]])  # center (4, 3), size (4, 2)
    log2 = math.log(2) / 0.2
    center_size = torch.tensor([[1 / 0.1, 0, log2, -log2]])
    corner, corner_size = torch.tensor([[10.0, 10, 15, -5]]), torch.tensor([[5.0, 2.5, 7.5, -1.25]])
    for code_type, delta in zip(CODE_TYPES, (center_size, corner, corner_size), strict=True):
        torch.testing.assert_close(impl.encode_boxes(box, prior, code_type=code_type), delta)
        torch.testing.assert_close(impl.decode_boxes(delta, prior, code_type=code_type), box)


@pytest.mark.parametrize("op", ["encode_boxes", "decode_boxes"])
@pytest.mark.parametrize("code_type", CODE_TYPES)
def test_sizes_and_dtypes(impl: Implementation, op: str, code_type: str) -> None:
    """Widths of vectors and blocks, leading dimensions, and all pairs of dtypes."""
    for shape in [(1,), (15,), (17,), (3, 63), (2, 64), (2, 65), (200,), (5, 129), (2, 3, 7), (300, 1)]:
        coded = random_boxes(*shape, seed=1) if op == "encode_boxes" else torch.randn(*shape, 4)
        compare(impl, op, coded, random_boxes(shape[-1], seed=2), code_type)
    for dtype in SUMS:
        for other in SUMS:
            coded, priors = random_boxes(2, 20, seed=1, dtype=dtype), random_boxes(20, seed=2, dtype=other)
            compare(impl, op, coded, priors, code_type)


@pytest.mark.parametrize("op", ["encode_boxes", "decode_boxes"])
@pytest.mark.parametrize("code_type", CODE_TYPES)
def test_degenerate_and_non_finite_boxes(impl: Implementation, op: str, code_type: str) -> None:
    """NaN, inf, huge, subnormal, flat and inverted boxes and priors: as in the reference."""
    for boxes in (degenerate_boxes(), tied_boxes(16)):
        coded = boxes[:, None].expand(-1, len(boxes), 4)
        compare(impl, op, coded, boxes, code_type)


def test_shapes(impl: Implementation) -> None:
    boxes, prior = random_boxes(3, 5), random_boxes(1)[0]
    expected = torch.stack([impl.encode_boxes(b, prior[None].expand(5, 4)) for b in boxes])
    assert_equal(impl.encode_boxes(boxes, prior), expected)  # priors [4]
    assert_equal(impl.encode_boxes(boxes, prior.expand(3, 5, 4)), expected)  # priors with the shape of boxes
    if impl.name != "reference":  # the public functions expand
        assert_equal(impl.encode_boxes(boxes, prior.expand(3, 1, 4)), expected)
    for shape, prior_shape in (((0, 4), (0, 4)), ((0, 5, 4), (5, 4)), ((3, 0, 4), (0, 4)), ((0, 4), (4,))):
        for op in ("encode_boxes", "decode_boxes"):
            result = getattr(impl, op)(torch.ones(shape), torch.ones(prior_shape))
            assert result.shape == shape and result.dtype == torch.float32
            coded, priors = grads(impl, op, torch.ones(shape), torch.ones(prior_shape), "corner")
            assert coded.shape == shape
            assert_equal(priors, torch.zeros(prior_shape))


def test_not_contiguous(impl: Implementation) -> None:
    boxes, priors = random_boxes(30, 2)[:, 1], random_boxes(60, seed=1).T.contiguous().T[::2]
    expected = impl.encode_boxes(boxes.contiguous(), priors.contiguous())
    assert_equal(impl.encode_boxes(boxes, priors), expected)
    shifted = torch.cat([torch.zeros(1), expected.flatten()])[1:].reshape(30, 4)  # starts 4 bytes into its storage
    assert_equal(impl.decode_boxes(shifted, priors), impl.decode_boxes(expected, priors.contiguous()))


@pytest.mark.parametrize("code_type", CODE_TYPES)
def test_decode_inverts_encode(impl: Implementation, code_type: str) -> None:
    boxes, priors = random_boxes(4, 50, seed=1), random_boxes(50, seed=2)
    deltas = impl.encode_boxes(boxes, priors, VARIANCES, code_type)
    torch.testing.assert_close(impl.decode_boxes(deltas, priors, VARIANCES, code_type), boxes, rtol=0, atol=1e-6)


def test_equals_torchvision(impl: Implementation) -> None:
    boxes, priors = random_boxes(50, seed=1), random_boxes(50, seed=2)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = impl.encode_boxes(boxes, priors)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, priors), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(impl.decode_boxes(deltas * 3, priors), coder.decode_single(deltas * 3, priors))


def test_flat_boxes_and_the_clamp(impl: Implementation) -> None:
    prior = torch.tensor([[0.0, 0, 1, 2]])
    assert impl.encode_boxes(torch.tensor([[0.5, 0, 0.5, 1]]), prior)[0, 2] == -torch.inf
    assert impl.encode_boxes(torch.tensor([[1.0, 0, 0, 1]]), prior)[0, 2].isnan()
    huge = torch.tensor([[0.0, 0, 100, torch.inf]])
    torch.testing.assert_close(impl.decode_boxes(huge, prior), torch.tensor([[-30.75, -61.5, 31.75, 63.5]]))
    undefined = impl.decode_boxes(torch.tensor([[0, 0, torch.nan, -torch.inf]]), prior)[0].isnan()
    assert undefined.tolist() == [True, False, True, False]


def test_gradient_at_the_clamp(impl: Implementation) -> None:
    """The gradient passes at the maximum, but not above it nor for NaN."""
    limit = torch.tensor(ssd_ops.reference.codec.MAX_LOG_SIZE, dtype=torch.float32)
    above = limit.nextafter(torch.tensor(torch.inf))
    deltas = torch.tensor([[0, 0, log, log] for log in (limit, above, torch.nan)], requires_grad=True)
    impl.decode_boxes(deltas, torch.tensor([[0.0, 0, 1, 1]]).expand(3, 4), [1, 1, 1, 1])[:, 2:].sum().backward()
    assert deltas.grad is not None
    assert_equal(deltas.grad[1:, 2:].nan_to_num(0), torch.zeros(2, 2))
    torch.testing.assert_close(deltas.grad[0, 2:], torch.tensor([31.25, 31.25]))


@pytest.mark.parametrize("op", ["encode_boxes", "decode_boxes"])
@pytest.mark.parametrize("code_type", CODE_TYPES)
def test_gradcheck(impl: Implementation, op: str, code_type: str) -> None:
    coded = random_boxes(3, 5, seed=1, dtype=torch.float64).requires_grad_()
    priors = random_boxes(5, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, p: getattr(impl, op)(c, p, VARIANCES, code_type), (coded, priors))


@pytest.mark.parametrize("op", ["encode_boxes", "decode_boxes"])
@pytest.mark.parametrize("code_type", CODE_TYPES)
def test_gradients(impl: Implementation, op: str, code_type: str) -> None:
    """Sums over leading dimensions of all sizes: one slice and many, fewer priors than a block and more."""
    if impl.name == "reference":
        pytest.skip("it is what the others are compared with")
    for shape in [(1,), (2, 3, 7), (40, 33), (3, 130), (3000, 1), (700, 3), (5, 257)]:
        for dtype in SUMS if shape == (40, 33) else (torch.float32,):
            coded = random_boxes(*shape, seed=1, dtype=dtype)
            priors = random_boxes(shape[-1], seed=2, dtype=dtype)
            actual = grads(impl, op, coded, priors, code_type)
            for one, other in zip(actual, grads(ssd_ops.reference, op, coded, priors, code_type), strict=True):
                assert one.dtype == other.dtype
                atol = SUMS[other.dtype] * other.abs().max().item()
                torch.testing.assert_close(one, other, rtol=0, atol=atol)
            assert_all_equal(grads(impl, op, coded, priors, code_type), actual)  # the same bits again


def test_result_is_independent_of_threads(impl: Implementation) -> None:
    if impl.name != "cpu":
        pytest.skip("of the CPU kernels")
    coded, priors = random_boxes(40, 700, seed=1), random_boxes(700, seed=2)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(
                [impl.encode_boxes(coded, priors), *grads(impl, "decode_boxes", coded, priors, "center_size")]
            )
    finally:
        torch.set_num_threads(threads)
    for result in results:
        assert_all_equal(result, results[0])


@pytest.mark.parametrize("op", ["encode_boxes", "decode_boxes"])
def test_compile(impl: Implementation, op: str) -> None:
    if impl.name == "reference":
        pytest.skip("the graph holds the op, not what implements it")
    function = getattr(ssd_ops, op)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (5, 9):
        coded = random_boxes(2, n, seed=1).to(impl.device).requires_grad_()
        priors = random_boxes(n, seed=2).to(impl.device)
        assert_equal(compiled(coded, priors), function(coded, priors))
        compiled(coded, priors).sum().backward()
        assert coded.grad is not None and coded.grad.isfinite().all()


def test_match_priors_and_detect_give_the_same_bits(impl: Implementation) -> None:
    priors, boxes = random_boxes(300, seed=1), random_boxes(40, seed=2)
    labels = torch.ones(40, dtype=torch.int64)
    matches = impl.match_priors([boxes], [labels], priors, iou_threshold=0.1)
    found = matches.gt_index[0] >= 0
    assert found.sum() > 100
    encoded = impl.encode_boxes(boxes[matches.gt_index[0, found]], priors[found])
    assert_equal(matches.loc_targets[0, found], encoded)
    loc, logits = torch.randn(1, 300, 4), torch.zeros(1, 300, 2)
    logits[0, :, 1] = torch.arange(300, 0, -1) / 100
    result = impl.detect(loc, logits, priors, iou_threshold=1.0, max_detections=300, clip=False)
    assert_equal(result.boxes[0], impl.decode_boxes(loc[0], priors))
