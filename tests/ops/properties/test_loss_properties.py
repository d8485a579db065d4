"""multibox_loss on inputs of all kinds: equal to the reference; invariants of order and of batches.

The sampled priors, the losses of boxes and their gradients are compared exactly; what passes through exp and log within
the error that these have.
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from ssd_ops.reference import grad_multibox_loss, multibox_loss
from ssd_ops.reference.outputs import all_outputs
from tests.ops.boxes import assert_equal
from tests.ops.conftest import Implementation
from tests.ops.losses import gradients, parts
from tests.ops.properties import rows
from tests.ops.properties import strategies as ours
from tests.ops.properties.strategies import cases
from tests.ops.properties.tolerance import assert_within


@st.composite
def batch(draw: st.DrawFn, floats: tuple[torch.dtype, ...] = ours.DTYPES) -> list[Tensor]:
    """loc, logits, loc_targets and labels."""
    images, priors = draw(ours.IMAGES), draw(ours.SIZES)
    classes, dtypes = draw(st.sampled_from((2, 3, 21, 33, 5, 1))), st.sampled_from((torch.float32, *floats))
    exact, generator = draw(st.booleans()), torch.Generator().manual_seed(draw(ours.SEEDS))
    pool = draw(rows.pool(classes, draw(dtypes), exact=exact))
    if not exact:
        double = pool.double()
        pool = pool[rows.merge_close((double.logsumexp(1) - double[:, 0])[:, None])]
    labels = torch.randint(0, classes, (images, priors), generator=generator)
    part = torch.rand(images, priors, generator=generator)
    labels[part > draw(st.sampled_from((0.2, 0.5, 0.1, 0.0, 1.0)))] = 0
    labels[torch.rand(images, priors, generator=generator) < draw(st.sampled_from((0.0, 0.2)))] = -1
    logits = pool[torch.randint(len(pool), (images, priors), generator=generator)]
    loc, targets = (draw(ours.boxes(images, priors, dtype=draw(dtypes))) for _ in range(2))
    return [loc, logits, targets, labels]


OPTIONS = {
    "neg_pos_ratio": st.one_of(st.sampled_from((3.0, 0.0, 0.5, 1e300, float("inf"))), st.floats(0, 10)),
    "normalizer": st.sampled_from(("batch", "image", "batch_size")),
    "min_negatives": st.sampled_from((0, 1, 7, 10**12)),
    "mining": st.sampled_from(("image", "batch")),
}
RULES = st.fixed_dictionaries(OPTIONS).filter(
    lambda rules: (rules["normalizer"], rules["mining"]) != ("image", "batch")
)
ALONE = st.fixed_dictionaries({**OPTIONS, "normalizer": st.just("image"), "mining": st.just("image")})


def row_error(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """The error in `dtype` of the log of a sum of exponentials, which also runs in any order."""
    log_sum = logits.double().logsumexp(-1).abs().nan_to_num(posinf=0)
    return torch.finfo(dtype).eps * (log_sum + logits.shape[-1] + 8)


@cases(inputs=batch(), options=RULES)
def test_multibox_loss(other: Implementation, inputs: list[Tensor], options: dict[str, Any]) -> None:
    loc_loss, cls_loss, weight = parts(other, *inputs, **options)
    expected = all_outputs(multibox_loss)(*inputs, **options)
    assert_equal(weight, expected[2])
    if weight.dtype == torch.float32:  # sums in float64, rounded once
        assert_equal(loc_loss, expected[0])
    else:
        assert_within(loc_loss, expected[0], expected[0].abs() * 1e-14)
    most = torch.finfo(weight.dtype).eps * (inputs[1].shape[2] + 8)
    assert_within(cls_loss, expected[1], most * (weight.double().sum() + expected[1].double().abs()))


@cases(inputs=batch(), options=RULES)
def test_gradients(other: Implementation, inputs: list[Tensor], options: dict[str, Any]) -> None:
    weight = all_outputs(multibox_loss)(*inputs, **options)[2]
    expected = grad_multibox_loss(torch.tensor(2.0), torch.tensor(0.5), *inputs, weight)
    found = gradients(other, *inputs, loc=2.0, cls=0.5, **options)
    assert_equal(found[0], expected[0])
    error = (row_error(inputs[1], weight.dtype) * weight.double())[..., None]
    assert_within(found[1], expected[1], error + torch.finfo(expected[1].dtype).eps * expected[1].double().abs())


@cases(inputs=batch((torch.float16,)), options=RULES, seed=ours.SEEDS)
def test_order_of_priors_and_images(
    impl: Implementation, inputs: list[Tensor], options: dict[str, Any], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, priors = (torch.randperm(n, generator=generator) for n in inputs[3].shape)
    expected, found = parts(impl, *inputs, **options), parts(impl, *(t[images][:, priors] for t in inputs), **options)
    assert_equal(found[0], expected[0])
    assert_equal(found[1], expected[1])
    if options["mining"] == "image":  # ties over the batch go to the first image
        assert_equal((found[2] > 0).sum(1), (expected[2] > 0).sum(1)[images])


@cases(inputs=batch(), options=ALONE)
def test_image_by_image(impl: Implementation, inputs: list[Tensor], options: dict[str, Any]) -> None:
    whole = parts(impl, *inputs, **options)
    alone = [parts(impl, *(t[b : b + 1] for t in inputs), **options) for b in range(len(inputs[0]))]
    for b, image in enumerate(alone):
        assert torch.equal(image[2][0] > 0, whole[2][b] > 0)
    for k in range(2):
        mean = sum((image[k].double() for image in alone), torch.zeros((), dtype=torch.float64)) / max(len(alone), 1)
        assert_within(whole[k], mean.to(whole[k].dtype), mean.abs() * 4 * torch.finfo(whole[k].dtype).eps)
