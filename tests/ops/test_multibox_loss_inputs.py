"""The training loss: invalid input, tracing and threads."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.conftest import Implementation
from tests.ops.losses import batch, gradients, parts

BAD = {
    "loc must have shape [B, P, 4], got [2, 10, 3]": lambda a: [a[0][..., :3], *a[1:]],
    "loc must have shape [B, P, 4], got [10, 4]": lambda a: [a[0][0], *a[1:]],
    "logits must have shape [2, 10, C], got [2, 9, 3]": lambda a: [a[0], a[1][:, :9], *a[2:]],
    "logits must have at least 1 class, the background, got shape [2, 10, 0]": lambda a: [a[0], a[1][..., :0], *a[2:]],
    "logits must be float16, bfloat16, float32 or float64, got complex64": lambda a: [a[0], a[1].cfloat(), *a[2:]],
    "loc_targets must have shape [2, 10, 4], got [1, 10, 4]": lambda a: [*a[:2], a[2][:1], a[3]],
    "labels must have shape [2, 10], got [2, 10, 1]": lambda a: [*a[:3], a[3][..., None]],
    "labels must be int64, got int32": lambda a: [*a[:3], a[3].int()],
}


@pytest.mark.parametrize("message", BAD)
def test_invalid_tensors(impl: Implementation, message: str) -> None:
    change: Callable[[list[Tensor]], list[Tensor]] = BAD[message]
    with pytest.raises(RuntimeError) as error:
        impl.multibox_loss(*change(batch(2, 10, 3)))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neg_pos_ratio": -1.0}, "neg_pos_ratio must be 0 or more, got -1"),
        ({"neg_pos_ratio": math.nan}, "neg_pos_ratio must be 0 or more, got nan"),
        ({"normalizer": "none"}, "normalizer must be one of batch, image, batch_size, got none"),
        ({"min_negatives": -2}, "min_negatives must be 0 or more, got -2"),
        ({"mining": "all"}, "mining must be one of image, batch, got all"),
        (
            {"mining": "batch", "normalizer": "image"},
            "normalizer must be batch or batch_size where mining is batch, got image",
        ),
    ],
)
def test_invalid_options(impl: Implementation, options: dict[str, float], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        impl.multibox_loss(*batch(2, 10, 3), **options)
    assert str(error.value) == message


@pytest.mark.parametrize("label", [-2, 3, 2**62, -(2**63)])
def test_label_out_of_range(impl: Implementation, label: int) -> None:
    inputs = batch(2, 10, 3)
    inputs[3][1, 4] = label
    if impl.name in ("reference", "cpu"):
        with pytest.raises(RuntimeError) as error:
            impl.multibox_loss(*inputs)
        assert str(error.value) == f"labels must be between -1 and 2, got {label} at index 14"
    else:  # not validated on a GPU, but nothing outside the row is read or written
        assert all(x.isnan() for x in impl.multibox_loss(*inputs))
        gradients(impl, *inputs)


def test_opcheck(impl: Implementation) -> None:
    if impl.name == "reference":
        pytest.skip("plain torch functions")
    inputs = [t.to(impl.device) for t in batch(2, 10, 3)]
    for wanted in (False, True):
        leaves = [t.detach().clone().requires_grad_(wanted) for t in inputs[:2]]
        op = torch.ops.ssd_ops.multibox_loss.default
        torch.library.opcheck(op, (*leaves, *inputs[2:], 3.0, "batch", 1, "batch"))


def test_compile(impl: Implementation) -> None:
    if impl.name == "reference":
        pytest.skip("plain torch functions")
    inputs = [t.to(impl.device) for t in batch(2, 10, 3)]

    def loss(loc: Tensor, logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        loc_loss, cls_loss, _ = torch.ops.ssd_ops.multibox_loss(
            loc * 2, logits, targets, labels, 3.0, "image", 1, "image"
        )
        return loc_loss + 2 * cls_loss

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = [t.clone().requires_grad_() for t in inputs[:2]]
        value = function(*leaves, *inputs[2:])
        value.backward()
        results.append([value.detach(), leaves[0].grad, leaves[1].grad])
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def everything(impl: Implementation) -> list[Tensor]:
    results = []
    for dtype, classes in ((torch.float32, 91), (torch.bfloat16, 21), (torch.float16, 5)):
        inputs = batch(3, 700, classes, dtype)
        results += [*parts(impl, *inputs), *gradients(impl, *inputs)]
    return results


@pytest.mark.parametrize("impl", ["cpu"], indirect=True)
def test_result_is_independent_of_threads(impl: Implementation) -> None:
    before, threads = everything(impl), torch.get_num_threads()
    try:
        torch.set_num_threads(3 if threads != 3 else 2)
        after = everything(impl)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
