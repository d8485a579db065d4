"""Properties of the package and of every op."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

import ssd_ops
from ssd_ops import _autograd, scripting
from ssd_ops._schemas import SCHEMAS, Schema
from ssd_ops.checks import four_variances
from tests.emu import emulated_ops
from tests.ops.boxes import assert_equal, random_boxes
from tests.ops.samples import sample_arguments
from tests.processes import run_python

NAMES = list(SCHEMAS)
ROOT = Path(__file__).parents[2]
# The public functions that are ops; multibox_loss and detect call those on levels, too.
PUBLIC = [
    name for name in NAMES if not name.startswith("grad_") and not name.endswith("_levels") and name != "box_iou_out"
]


def test_schemas_parse() -> None:
    assert set(NAMES) == set(sample_arguments())
    for name, schema in SCHEMAS.items():
        parsed = torch._C.parse_schema(f"ssd_ops::{schema.text}")
        registered = getattr(torch.ops.ssd_ops, name).default._schema
        assert parsed.name == registered.name == f"ssd_ops::{name}"
        assert str(registered) == str(parsed), "the compiled library was built with another list"


@pytest.mark.parametrize("name", NAMES)
def test_every_op_has_all_its_parts(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ssd_ops::{name}", "CompositeExplicitAutograd")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ssd_ops::{name}", "Autograd")
    assert torch._library.simple_registry.singleton.find(f"ssd_ops::{name}").fake_impl.kernel is not None
    if name in PUBLIC:
        public, twin = getattr(ssd_ops, name), getattr(ssd_ops.reference, name)
        assert name in ssd_ops.__all__ and public.__doc__ and twin.__doc__
        parameters = inspect.signature(public).parameters
        assert parameters == inspect.signature(twin).parameters
        assert_defaults_agree(parameters, SCHEMAS[name])
        if hasattr(scripting, name):  # its form in TorchScript, which has no keyword-only parameters
            form = inspect.signature(getattr(scripting, name)).parameters
            required = [key for key, parameter in parameters.items() if key in form or key in SCHEMAS[name].arguments]
            assert list(form) == required
            defaults = {key: parameter.default for key, parameter in form.items() if parameter.default is not None}
            assert defaults == {key: parameters[key].default for key in defaults}


def assert_defaults_agree(parameters: Mapping[str, inspect.Parameter], schema: Schema) -> None:
    """Compares the defaults of a public function with those of its op's schema."""
    defaults = dict(zip(reversed(schema.arguments), reversed(schema.defaults), strict=False))
    for key, default in defaults.items():
        expected = parameters[key].default
        if key == "variances":
            expected = four_variances(expected)
        elif key == "dtype":
            expected = str(expected).removeprefix("torch.")
        assert default == (list(expected) if isinstance(expected, tuple) else expected), key


@pytest.mark.parametrize("name", NAMES)
def test_defaults_may_be_omitted(name: str) -> None:
    """Programs saved before an option was added call ops without it, and the dispatcher omits defaults, too."""
    schema, arguments = SCHEMAS[name], sample_arguments()[name]
    required = arguments[: len(arguments) - len(schema.defaults)]
    assert schema.complete(required) == (*required, *schema.defaults)
    results, expected = (getattr(torch.ops.ssd_ops, name)(*args) for args in (required, schema.complete(required)))
    for one, other in zip(as_tuple(results), as_tuple(expected), strict=True):
        assert_equal(one, other)


def as_tuple(results: Any) -> tuple[torch.Tensor, ...]:
    return tuple(result for result in tree_leaves(results) if result is not None)


# nms and batched_nms return as many indices as they keep: AOT tracing cannot check such shapes against real ones.
@pytest.mark.parametrize("namespace", ["ssd_ops", "ssd_ops_emu"])
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(namespace: str, name: str) -> None:
    op = getattr(emulated_ops() if namespace == "ssd_ops_emu" else torch.ops.ssd_ops, name)
    arguments = list(sample_arguments()[name])
    # Not of gradients, as torch does not trace a backward pass of a backward pass, nor of match_priors: opcheck adds up the
    # results in the dtype of the first, which is int64. test_derivatives.py has both.
    if name != "match_priors" and not name.startswith("grad_"):
        for i in _autograd.DIFFERENTIABLE.get(name, ()):
            arguments[i].requires_grad_()
    torch.library.opcheck(op.default, tuple(arguments))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_not_modified(name: str) -> None:
    given, kept = sample_arguments()[name], sample_arguments()[name]
    getattr(torch.ops.ssd_ops, name)(*given)
    for i, (one, other) in enumerate(zip(given, kept, strict=True)):
        if isinstance(one, torch.Tensor) and (name, i) != ("box_iou_out", 2):
            assert torch.equal(one, other), f"argument {i} was written to"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_box_arithmetic_in_float32(dtype: torch.dtype) -> None:
    boxes, priors = random_boxes(20, seed=1), random_boxes(20, seed=2)
    plain = {name: getattr(torch.ops.ssd_ops, name)(*sample_arguments()[name]) for name in NAMES}
    with torch.autocast("cpu", dtype):
        assert torch.equal(ssd_ops.box_iou(boxes, priors), torch.ops.ssd_ops.box_iou(boxes, priors))
        for name in NAMES:
            results = getattr(torch.ops.ssd_ops, name)(*sample_arguments()[name])
            for one, other in zip(as_tuple(results), as_tuple(plain[name]), strict=True):
                assert one.dtype == other.dtype and one.dtype not in (torch.float16, torch.bfloat16)
                assert torch.equal(one, other), name


def test_warns_once_of_a_gpu_without_kernels() -> None:
    """Runs without a GPU: the fallback is called with an object whose device is one."""
    code = (
        "import warnings, types, ssd_ops; from ssd_ops import _fallback, _schemas; warnings.simplefilter('always');"
        "far = types.SimpleNamespace(device=types.SimpleNamespace(type='cuda'));"
        "ssd_ops.reference.nms = lambda **arguments: arguments['scores'];"
        "call = _fallback.implementation(_schemas.SCHEMAS['nms']); print(call(far, 1, 0.5), call(far, 2, 0.5))"
    )
    done = run_python("-c", code, folder=ROOT)
    assert done.stdout.split() == ["1", "2"], done.stderr
    if torch._C._dispatch_has_kernel_for_dispatch_key("ssd_ops::nms", "CPU"):
        assert done.stderr.count("ssd_ops runs cuda tensors on its PyTorch reference") == 1
        assert "SSD_OPS_CUDA=1 pip install -e . builds them" in done.stderr


def test_reference_can_be_forced() -> None:
    code = (
        "import os, torch; os.environ['SSD_OPS_BACKEND'] = 'reference'; import ssd_ops;"
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('ssd_ops::nms', 'CPU'));"
        "b = torch.tensor([[0., 0, 1, 1]]); print(ssd_ops.box_iou(b, b).item(), ssd_ops.nms(b, b[:, 0], 0.5).tolist())"
    )
    done = run_python("-c", code, folder=ROOT)
    assert done.stdout.split("\n")[:2] == ["False", "1.0 [0]"] and not done.stderr, done.stderr
