"""Every public function under every derivative and transform of torch: the reference's value, or a clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import ssd_ops
from ssd_ops import reference
from tests.ops.derivative_cases import CASES, SMOOTH, Case

NO_FUNCTION_OF_BOXES = ("nms", "batched_nms")  # their results are indices


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    return str(request.param)


def leaves(case: Case, device: str) -> list[Tensor]:
    return [tensor.to(device, copy=True).requires_grad_() for tensor in case.inputs]


def assert_close(actual: Any, expected: Any) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-3, atol=1e-3 * max(1.0, float(other.detach().abs().max())) ** 0.5
        )


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], **options: bool) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(*inputs), inputs, materialize_grads=True, **options)


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_backward_and_double_backward(case: Case, device: str) -> None:
    found = []
    for module in (ssd_ops, reference):
        inputs = leaves(case, device)
        first = gradients(case.number(module), inputs, create_graph=True)
        assert all(grad.any() for grad in first)
        squares = torch.stack([(grad * grad).sum() for grad in first]).sum()
        linear = not squares.requires_grad
        second = () if linear else torch.autograd.grad(squares, inputs, materialize_grads=True, create_graph=True)
        found.append((*first, *(second or [torch.zeros_like(x) for x in inputs])))
    assert_close(*found)


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_forward_mode(case: Case, device: str) -> None:
    inputs, tangents = [x.to(device) for x in case.inputs], [x.to(device).cos() for x in case.inputs]
    expected = torch.func.jvp(case.smooth(reference), tuple(inputs), tuple(tangents))
    assert any(tangent.any() for tangent in expected[1])
    found = torch.func.jvp(case.smooth(), tuple(inputs), tuple(tangents))
    assert_close([*found[0], *found[1]], [*expected[0], *expected[1]])
    with forward_ad.dual_level():
        results = case.smooth()(*[forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)])
        assert_close([forward_ad.unpack_dual(result).tangent for result in results], expected[1])


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_forward_mode_in_forward_mode(case: Case, device: str) -> None:
    inputs, tangents = tuple(x.to(device) for x in case.inputs), tuple(x.to(device).cos() for x in case.inputs)

    def second(function: Callable[..., Tensor], *at: Tensor) -> tuple[Tensor, Tensor]:
        def first(*x: Tensor) -> Tensor:
            return torch.func.jvp(function, x, tangents)[1]

        found: tuple[Tensor, Tensor] = torch.func.jvp(first, at, tangents)
        return found

    expected = second(case.number(reference), *inputs)
    assert_close(second(case.number(), *inputs), expected)
    stacks = [torch.stack([x, x]) for x in inputs]
    assert_close(torch.vmap(lambda *x: second(case.number(), *x))(*stacks), [torch.stack([x, x]) for x in expected])


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_func_grad_vmap_and_jacobian(case: Case, device: str) -> None:
    inputs, places = [x.to(device) for x in case.inputs], tuple(range(len(case.inputs)))
    expected = gradients(case.number(reference), leaves(case, device))
    assert_close(torch.func.grad(case.number(), places)(*inputs), expected)
    stacks = [torch.stack([x, x]) for x in inputs]
    each = torch.vmap(torch.func.grad(case.number(), places))(*stacks)
    assert_close(each, [torch.stack([grad, grad]) for grad in expected])
    results = torch.vmap(case.smooth(), in_dims=(1, *(None,) * (len(inputs) - 1)))(
        torch.stack([inputs[0]] * 3, dim=1), *inputs[1:]
    )
    assert_close(results, [torch.stack([result] * 3) for result in case.smooth(reference)(*inputs)])
    rows = torch.func.jacrev(case.smooth())(*inputs)[0]
    assert_close([rows.reshape(-1, *inputs[0].shape).sum(dim=0)], [_gradient_of_sum(case, inputs)])


def _gradient_of_sum(case: Case, inputs: list[Tensor]) -> Tensor:
    first = inputs[0].clone().requires_grad_()
    (grad,) = torch.autograd.grad(case.smooth(reference)(first, *inputs[1:])[0].sum(), first)
    return grad


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
def test_checkpointing(case: Case, device: str) -> None:
    def inside(*inputs: Tensor) -> Tensor:
        return case.number()(*[tensor * 1 for tensor in inputs])

    inputs = leaves(case, device)
    found = torch.autograd.grad(checkpoint(inside, *inputs, use_reentrant=False), inputs)
    assert_close(found, gradients(case.number(), leaves(case, device)))


@pytest.mark.parametrize("case", [case for case in CASES if not case.differentiable], ids=repr)
def test_error_of_functions_without_derivative(case: Case, device: str) -> None:
    inputs = [x.to(device) for x in case.inputs]
    expected = case.results(ssd_ops, *inputs)
    stacks = [torch.stack([x, x]) for x in inputs]
    if case.name in NO_FUNCTION_OF_BOXES:
        found = torch.func.jvp(lambda *x: case.results(ssd_ops, *x)[0], tuple(inputs), tuple(inputs))
        assert torch.equal(found[0], expected[0]) and not found[1].any()  # an index does not move
        with pytest.raises(RuntimeError, match=f"^{case.name} keeps a number of boxes that depends on the data"):
            torch.vmap(lambda *x: case.results(ssd_ops, *x)[0])(*stacks)
        return
    message = "^render_images has no derivative, and crops requires one"
    for module in (ssd_ops, reference):
        with pytest.raises(RuntimeError, match=message):
            case.results(module, *[x.clone().requires_grad_() for x in inputs])
        with pytest.raises(RuntimeError, match=message):
            torch.func.jvp(lambda *x, m=module: case.results(m, *x)[0], tuple(inputs), tuple(inputs))


def test_second_derivatives_of_the_dispatcher_and_first_of_torch_func() -> None:
    """`torch.ops.ssd_ops` has gradients too; its error for forward mode names the public function."""
    boxes1, boxes2 = SMOOTH[0].inputs
    op = torch.ops.ssd_ops.box_iou
    expected = torch.func.grad(lambda x: reference.box_iou(x, boxes2).sum())(boxes1)
    assert_close([torch.func.grad(lambda x: op(x, boxes2).sum())(boxes1)], [expected])
    with pytest.raises(RuntimeError, match=r"no forward mode: call ssd_ops\.box_iou"):
        torch.func.jvp(lambda x: op(x, boxes2), (boxes1,), (boxes1,))
