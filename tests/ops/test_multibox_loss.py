"""The training loss: every implementation against worked examples, the reference and torchvision."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from ssd_ops import reference
from ssd_ops.reference import grad_multibox_loss, multibox_loss
from ssd_ops.reference.outputs import all_outputs
from tests.ops.conftest import Implementation
from tests.ops.losses import batch, gradients, parts

LN3 = math.log(3.0)

# exp and log of the implementations differ by at most 2 ulp, and a row's sum runs in
# another order: some units of the largest number involved, here below 32.
UNITS = 32 * 8


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 0.0, "atol": UNITS * torch.finfo(dtype).eps}


def check_equal_to_reference(impl: Implementation, *inputs: Tensor, **options: float) -> None:
    found = parts(impl, *inputs, **options)
    reference = SimpleNamespace(name="reference", device=torch.device("cpu"))
    expected = parts(reference, *inputs, **options)
    dtype = expected[2].dtype
    # Sums of float32 numbers run in float64 and are rounded once, so the order does not matter; for float64 it does.
    rtol = 0 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(found[0], expected[0], rtol=rtol, atol=0, equal_nan=True)
    torch.testing.assert_close(found[1], expected[1], rtol=UNITS * torch.finfo(dtype).eps, atol=0, equal_nan=True)
    assert torch.equal(found[2], expected[2])


def test_example(impl: Implementation) -> None:
    logits = torch.tensor([[[0, LN3], [0, LN3], [LN3, 0], [0, 0], [0, 9]]])  # LN3 is a probability of 3 in 4
    labels = torch.tensor([[1, 0, 0, 0, -1]])
    loc, targets = torch.zeros(1, 5, 4), torch.full((1, 5, 4), 7.0)
    targets[0, 0] = torch.tensor([-0.5, -2.0, 0.0, 1.0])
    loc_loss, cls_loss = impl.multibox_loss(loc, logits, targets, labels, neg_pos_ratio=2)
    assert loc_loss == 0.125 + 1.5 + 0 + 0.5
    # Positive 0, and of the background 1 and 3; the ignored prior 4 is not sampled, though its loss is the highest.
    assert cls_loss == pytest.approx(math.log(4 / 3) + math.log(4) + math.log(2), rel=1e-6)
    grad_loc, grad_logits = gradients(impl, loc, logits, targets, labels, neg_pos_ratio=2)
    assert torch.equal(grad_loc[0, 0], torch.tensor([0.5, 1.0, 0.0, -1.0])) and not grad_loc[0, 1:].any()
    expected = torch.tensor([[0.25, -0.25], [-0.75, 0.75], [0, 0], [-0.5, 0.5], [0, 0]])
    torch.testing.assert_close(grad_logits[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("priors", "classes"),
    [*((p, 21) for p in (0, 1, 63, 64, 65, 200)), *((65, c) for c in (1, 2, 8, 15, 16, 17, 24, 91, 96, 97, 256, 257))],
)
def test_sizes(impl: Implementation, priors: int, classes: int) -> None:
    inputs = batch(2, priors, classes)
    check_equal_to_reference(impl, *inputs)
    found = gradients(impl, *inputs, loc=2.0, cls=0.5)
    weight = all_outputs(multibox_loss)(*inputs)[2]
    expected = grad_multibox_loss(torch.tensor(2.0), torch.tensor(0.5), *inputs, weight)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], **tolerance(torch.float32))


def test_no_images(impl: Implementation) -> None:
    inputs = batch(0, 10, 3)
    assert [x.item() for x in impl.multibox_loss(*inputs)] == [0.0, 0.0]
    assert [g.shape for g in gradients(impl, *inputs)] == [(0, 10, 4), (0, 10, 3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(impl: Implementation, dtype: torch.dtype) -> None:
    inputs = batch(2, 70, 21, dtype)
    check_equal_to_reference(impl, *inputs)
    grads = gradients(impl, *inputs)
    assert [g.dtype for g in grads] == [dtype, dtype]
    wide = gradients(impl, *(t.to(torch.promote_types(dtype, torch.float32)) for t in inputs[:3]), inputs[3])
    for half, exact in zip(grads, wide, strict=True):
        torch.testing.assert_close(half, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-12)


def test_mixed_dtypes(impl: Implementation) -> None:
    loc, logits, targets, labels = batch(2, 70, 5)
    check_equal_to_reference(impl, loc.bfloat16(), logits.half(), targets, labels)
    check_equal_to_reference(impl, loc, logits.half(), targets.double(), labels)
    grads = gradients(impl, loc.half(), logits, targets.double(), labels)
    assert [g.dtype for g in grads] == [torch.float16, torch.float32]


@pytest.mark.parametrize("min_negatives", [0, 7, 10**12])
@pytest.mark.parametrize("neg_pos_ratio", [0.0, 0.5, 2.7, 1e300, math.inf])
@pytest.mark.parametrize(
    ("normalizer", "mining"),
    [("batch", "image"), ("image", "image"), ("batch_size", "image"), ("batch", "batch"), ("batch_size", "batch")],
)
def test_options(impl: Implementation, neg_pos_ratio: float, normalizer: str, mining: str, min_negatives: int) -> None:
    inputs = batch(3, 40, 4)
    inputs[3][1] = 0  # an image without objects
    options = {"neg_pos_ratio": neg_pos_ratio, "normalizer": normalizer, "min_negatives": min_negatives}
    check_equal_to_reference(impl, *inputs, **options, mining=mining)


def test_mining_over_the_batch(impl: Implementation) -> None:
    # One positive in image 0; the two hardest negatives are in image 1, then two tied ones in both images.
    logits = torch.tensor([[[0.0, 2], [0, 1], [0, 0]], [[0, 3], [0, 4], [0, 1]]])
    labels, loc = torch.tensor([[1, 0, 0], [0, 0, 0]]), torch.zeros(2, 3, 4)
    inputs = [loc, logits, loc, labels]
    for ratio, sampled in (
        (2.0, [[1, 0, 0], [1, 1, 0]]),
        (3.0, [[1, 1, 0], [1, 1, 0]]),
        (4.0, [[1, 1, 0], [1, 1, 1]]),
    ):
        assert parts(impl, *inputs, neg_pos_ratio=ratio, mining="batch")[2].tolist() == sampled
    # 2 for each image, 4 in all; divided by the images
    found = parts(impl, *inputs, neg_pos_ratio=0.0, min_negatives=2, normalizer="batch_size", mining="batch")
    assert found[2].tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0.5]]
    loss = [math.log1p(math.exp(x)) for x in (-2.0, 1, 3, 4, 1)]
    assert found[1].item() == pytest.approx(sum(loss) / 2, rel=1e-6)
    assert parts(impl, *inputs, neg_pos_ratio=3.0)[2].tolist() == [[1, 1, 1], [0, 0, 0]]  # each image by itself


def test_mining_over_a_batch_larger_than_shared_memory(impl: Implementation) -> None:
    inputs = batch(7, 9000, 2, positives=30)
    inputs[1] = inputs[1].round()  # ties, within and across images
    check_equal_to_reference(impl, *inputs, mining="batch")
    check_equal_to_reference(impl, *inputs, mining="batch", normalizer="batch_size", min_negatives=3000)
    whole = [t.reshape(1, -1, *t.shape[2:]) for t in inputs]  # the same rows as one image
    one, other = parts(impl, *inputs, mining="batch"), parts(impl, *whole)
    assert all(torch.equal(x.flatten(), y.flatten()) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("positives", [0, 1, 341, 400, 625])
def test_ties_go_to_the_lowest_priors(impl: Implementation, positives: int) -> None:
    loc, logits, targets, labels = batch(1, 2500, 2, positives=positives)
    labels[labels < 0] = 0
    weight = parts(impl, loc, torch.ones_like(logits), targets, labels)[2]
    background = (labels[0] == 0).nonzero()[:, 0]
    chosen = torch.zeros(2500, dtype=torch.bool)
    chosen[background[: 3 * int((labels > 0).sum())]] = True
    assert torch.equal(weight[0] != 0, chosen | (labels[0] > 0))


def test_more_priors_than_shared_memory_holds(impl: Implementation) -> None:
    inputs = batch(1, 6200 if impl.device.type == "cpu" else 40000, 2, torch.float64, positives=600)
    inputs[1] = inputs[1].round()  # many ties
    check_equal_to_reference(impl, *inputs)


@pytest.mark.parametrize("classes", [3, 21, 91])
def test_nan_and_inf(impl: Implementation, classes: int) -> None:
    inf, nan = math.inf, math.nan
    rows = [
        [0, 1, 2],
        [nan, 0, 0],
        [0, inf, 0],
        [inf, 0, 0],
        [-inf, -inf, -inf],
        [0, 0, -inf],
        [-inf, 0, 0],
        [0, nan, inf],
    ]
    logits, labels = torch.tensor([rows]), torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]])
    logits = torch.nn.functional.pad(logits, (0, classes - 3), value=-inf)  # classes of probability 0
    loc = torch.zeros(1, 8, 4)
    for negatives in range(8):
        inputs = [loc, logits, loc, labels]
        check_equal_to_reference(impl, *inputs, neg_pos_ratio=float(negatives))
    # NaN first (priors 1, 3, 4 and 7), then inf (2 and 6), then numbers.
    assert parts(impl, *inputs, neg_pos_ratio=5.0)[2][0].tolist() == [1, 1, 1, 1, 1, 0, 0, 1]


def test_ignored_priors_do_not_contribute(impl: Implementation) -> None:
    inputs = batch(2, 50, 4)
    before = impl.multibox_loss(*inputs)
    ignored = inputs[3] < 0
    for tensor in inputs[:3]:
        tensor[ignored] = math.nan
    after = impl.multibox_loss(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    grads = gradients(impl, *inputs)
    assert all(g.isfinite().all() and not g[ignored].any() for g in grads)


def test_non_contiguous(impl: Implementation) -> None:
    inputs = batch(2, 65, 7)
    expected = impl.multibox_loss(*inputs)
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in inputs[:3]]
    found = impl.multibox_loss(*strided, inputs[3].t().contiguous().t())
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    shifted = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t) for t in inputs]  # not aligned to a vector
    found = impl.multibox_loss(*shifted)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("normalizer", ["batch", "image"])
def test_result_is_independent_of_order(impl: Implementation, normalizer: str) -> None:
    inputs = batch(3, 150, 21)
    expected = impl.multibox_loss(*inputs, normalizer=normalizer)
    priors, images = torch.randperm(150), torch.tensor([2, 0, 1])
    found = impl.multibox_loss(*(t[images][:, priors] for t in inputs), normalizer=normalizer)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_image_by_image(impl: Implementation) -> None:
    inputs = batch(3, 100, 21)
    whole = impl.multibox_loss(*inputs, normalizer="image")
    single = [impl.multibox_loss(*(t[i : i + 1] for t in inputs), normalizer="image") for i in range(3)]
    for found, each in zip(whole, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(each).mean(), rtol=1e-6, atol=0)


def torchvision_loss(
    logits: Tensor, loc: Tensor, matched: Tensor, boxes: Tensor, labels: Tensor, priors: Tensor
) -> list[Tensor]:
    ssd = SimpleNamespace(box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3)
    targets = [{"boxes": b, "labels": y} for b, y in zip(boxes, labels, strict=True)]
    heads = {"bbox_regression": loc, "cls_logits": logits}
    losses = SSD.compute_loss(ssd, targets, heads, [priors] * len(boxes), list(matched))
    return [losses["bbox_regression"], losses["classification"]]


def test_equals_torchvision(impl: Implementation) -> None:
    generator = torch.Generator().manual_seed(1)
    corner, gt_corner = torch.rand(100, 2, generator=generator), torch.rand(2, 3, 2, generator=generator)
    priors, boxes = torch.cat([corner, corner + 0.3], 1), torch.cat([gt_corner, gt_corner + 0.2], 2)
    gt_labels = torch.randint(1, 21, (2, 3), generator=generator)
    matched = torch.where(
        torch.rand(2, 100, generator=generator) < 0.1, torch.randint(0, 3, (2, 100), generator=generator), -1
    )
    assert 0 < (matched >= 0).sum(1).max() * 4 <= 100  # more positives, and torchvision counts them twice
    loc, logits = torch.randn(2, 100, 4, generator=generator), 2 * torch.randn(2, 100, 21, generator=generator)
    leaves = [loc.requires_grad_(), logits.requires_grad_()]
    expected = torchvision_loss(logits, loc, matched, boxes, gt_labels, priors)
    expected_grads = torch.autograd.grad(expected[0] + expected[1], leaves)

    index = matched.clamp(min=0)
    labels = torch.where(matched < 0, 0, gt_labels.gather(1, index))
    gathered = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    targets = torch.stack([BoxCoder((10.0, 10.0, 5.0, 5.0)).encode_single(b, priors) for b in gathered])
    inputs = [loc.detach(), logits.detach(), targets, labels]
    torch.testing.assert_close(list(impl.multibox_loss(*inputs)), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients(impl, *inputs), list(expected_grads), rtol=1e-5, atol=1e-8)


def test_gradcheck(impl: Implementation) -> None:
    loc, logits, targets, labels = batch(2, 6, 3, torch.float64, positives=2)

    def losses(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return impl.multibox_loss(a, b, targets, labels, neg_pos_ratio=1.0, min_negatives=1)

    leaves = loc.requires_grad_(), logits.requires_grad_()
    assert torch.autograd.gradcheck(losses, leaves, fast_mode=impl.name == "emulated")


def test_one_loss_alone_and_scaled_gradients(impl: Implementation) -> None:
    inputs = batch(2, 70, 21, torch.bfloat16)
    grads = gradients(impl, *inputs)
    scaled = gradients(impl, *inputs, loc=65536.0, cls=65536.0)  # as a gradient scaler does
    assert all(torch.equal(s, g * 65536) for s, g in zip(scaled, grads, strict=True))
    leaves = [t.clone().requires_grad_() for t in inputs[:2]]
    for k, (alone, still) in enumerate([(0, 1), (1, 0)]):
        found = torch.autograd.grad(impl.multibox_loss(*leaves, *inputs[2:])[k], leaves, materialize_grads=True)
        assert torch.equal(found[alone], grads[alone]) and not found[still].any()
    with torch.autocast("cpu", torch.bfloat16):
        found = impl.multibox_loss(*inputs)
    expected = impl.multibox_loss(*inputs)
    assert all(x.dtype == torch.float32 and torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_loc_targets_get_their_gradient(impl: Implementation) -> None:
    loc, logits, targets, labels = batch(2, 10, 3)
    loc, targets = loc.half().requires_grad_(), targets.requires_grad_()
    found = torch.autograd.grad(impl.multibox_loss(loc, logits, targets, labels)[0], (loc, targets))
    assert found[1].any() and torch.equal(found[0], -found[1].half())
    expected = reference.multibox_loss(loc, logits, targets, labels)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected, (loc, targets)))


def test_memory_for_the_gradient(impl: Implementation) -> None:
    """Between forward and backward at most one number per prior is kept besides the inputs."""
    inputs = batch(2, 100, 21)
    leaves = [t.to(impl.device).requires_grad_() for t in inputs[:2]]
    others = [t.to(impl.device) for t in inputs[2:]]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        impl.multibox_loss(*leaves, *others)
    if impl.name != "reference":  # plain torch functions keep more
        assert sum(kept.values()) <= sum(t.nbytes for t in inputs) + 2 * 100 * 4
