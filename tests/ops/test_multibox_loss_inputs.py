"""The training loss: invalid input, tracing and threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.conftest import Implementation
from tests.ops.losses import batch, gradients, parts


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
