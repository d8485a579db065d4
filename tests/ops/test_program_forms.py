"""Every public function on meta tensors, in compiled, scripted, exported and saved programs, and under other defaults."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree

import ssd_ops
from tests.ops.boxes import random_boxes
from tests.ops.derivative_cases import CASES, Case

BOXES, OTHERS = random_boxes(30, seed=1), random_boxes(30, seed=2)
SCORES, NAMES = torch.linspace(0, 1, 30).cos(), torch.arange(30) % 3
DATA_DEPENDENT = ("nms", "batched_nms")


def form(results: Any) -> list[tuple[Any, ...]]:
    return [(tensor.shape, tensor.dtype) for tensor in results]


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_meta_and_fake_tensors(case: Case) -> None:
    there = [tensor.to("meta") for tensor in case.inputs]
    if case.name in DATA_DEPENDENT:
        with pytest.raises(RuntimeError, match=f"^{case.name} keeps a number of boxes that depends on their values"):
            case.results(ssd_ops, *there)
    else:
        results, expected = case.results(ssd_ops, *there), case.results(ssd_ops, *case.inputs)
        assert form(results) == form(expected) and all(result.is_meta for result in results)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            results = case.results(ssd_ops, *[mode.from_tensor(tensor) for tensor in case.inputs])
        assert form(results) == form(expected)
    if len(there) > 1:
        with pytest.raises(RuntimeError, match=r"must be on the device of \S+, cpu, got meta$"):
            case.results(ssd_ops, case.inputs[0], *there[1:])


def test_fake_kernels_check_shapes_and_options() -> None:
    meta = torch.empty(5, 4, device="meta")
    with pytest.raises(RuntimeError, match=r"^boxes1 must have shape \[\.\.\., N, 4\], got \[5, 3\]$"):
        ssd_ops.box_iou(meta[:, :3], meta)
    options = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates_per_class": -5, "max_detections": 9}
    with pytest.raises(RuntimeError, match=r"^candidates_per_class must be at least 1, got -5$"):
        ssd_ops.multiclass_nms(meta[None], meta[None], **options)
    with pytest.raises(RuntimeError, match=r"^iou_threshold must be a number above 0, got nan$"):
        ssd_ops.match_priors(
            [meta], [torch.empty(5, dtype=torch.int64, device="meta")], meta, iou_threshold=float("nan")
        )
    levels = [torch.empty(1, 4, 1, 1, device="meta")] * 17
    with pytest.raises(RuntimeError, match=r"loc must be a list of at most 16 tensors, got a list of 17"):
        torch.ops.ssd_ops.detect_levels(levels, levels, meta)


def test_result_is_independent_of_torch_defaults() -> None:
    images, crops = [torch.arange(48, dtype=torch.uint8).view(3, 4, 4)], torch.tensor([[0.0, 0, 4, 4]])
    one, names = BOXES[:2].clone(), torch.tensor([1, 2])

    def results() -> list[Tensor]:
        found: list[Tensor] = [ssd_ops.render_images(images, crops, 3), *ssd_ops.match_priors([one], [names], OTHERS)]
        return [*found, *ssd_ops.match_priors([], [], OTHERS), ssd_ops.reference.render_images(images, crops, 3)]

    expected = [*results(), *[result for case in CASES for result in case.results(ssd_ops, *case.inputs)]]
    with torch.device("meta"):
        for result, other in zip(results(), expected, strict=False):
            assert result.device.type == "cpu" and torch.equal(result, other)
    torch.set_default_dtype(torch.float64)
    try:
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
    assert form(found) == form(expected[: len(found)])


# The functions that accept an empty set of boxes, and their inputs.
EMPTY: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "box_iou": (lambda a, b: ssd_ops.box_iou(a, b), (BOXES[:0], OTHERS)),
    "encode_boxes": (lambda a, b: ssd_ops.encode_boxes(a, b), (BOXES[:0], OTHERS[:0])),
    "multibox_loss": (
        lambda a, b: ssd_ops.multibox_loss(a, b, torch.zeros_like(a), torch.zeros(a.shape[:2], dtype=torch.int64)),
        (BOXES[None, :0], OTHERS[None, :0]),
    ),
    "detect": (lambda a, b: ssd_ops.detect(a[None], b[None], a, max_detections=5)[:2], (BOXES[:0], OTHERS[:0])),
    "nms": (lambda a, b: a[ssd_ops.nms(a, b[:, 0], 0.5)], (BOXES[:0], OTHERS[:0])),
    "batched_nms": (lambda a, b: a[ssd_ops.batched_nms(a, b[:, 0], NAMES[: len(b)], 0.5)], (BOXES[:0], OTHERS[:0])),
}


@pytest.mark.parametrize("name", EMPTY)
def test_compiled_without_rows(name: str) -> None:
    function, inputs = EMPTY[name]
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    results = torch.compile(function, backend="aot_eager", fullgraph=True)(*leaves)
    several = [results] if isinstance(results, Tensor) else list(results)
    expected = function(*inputs)
    assert form(several) == form([expected] if isinstance(expected, Tensor) else expected)
    grads = torch.autograd.grad(sum(result.sum() for result in several), leaves, materialize_grads=True)
    assert form(grads) == form(inputs) and not any(grad.any() for grad in grads)


@pytest.mark.parametrize("name", ["match_priors", "detect", pytest.param("soft_nms gaussian", marks=pytest.mark.slow)])
def test_compiled_gradients(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    found = []
    for function in (case.number(), torch.compile(case.number(), backend="aot_eager", fullgraph=True)):
        leaves = [tensor.clone().requires_grad_() for tensor in case.inputs]
        found.append(torch.autograd.grad(function(*leaves), leaves))
    assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in zip(*found, strict=True))


def test_compiled_lists_of_unknown_length() -> None:
    """Boxes and labels that are selected by one mask have lengths that the compiler cannot compare."""

    def labels(boxes: Tensor, scores: Tensor) -> Tensor:
        mask = scores > 0.5
        flags = torch.zeros(30, dtype=torch.bool)
        parts = [[tensor[kept] for kept in (mask, ~mask)] for tensor in (boxes, NAMES + 1, flags)]
        return ssd_ops.match_priors(parts[0], parts[1], boxes, ignore=parts[2]).labels

    compiled = torch.compile(labels, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(BOXES, SCORES), labels(BOXES, SCORES))


def test_compiled_gradients_with_unknown_lengths() -> None:
    """Two masks that select the same rows, which the compiler cannot know."""

    def total(loc: Tensor, logits: Tensor, priors: Tensor) -> Tensor:
        mask, same = priors[:, 0] < 0.5, ~(priors[:, 0] >= 0.5)
        boxes = ssd_ops.decode_boxes(loc[:, mask], priors[same])
        found = ssd_ops.detect(loc[:, mask], logits[:, same], priors[mask], max_detections=5)
        softly = ssd_ops.soft_nms(boxes, logits.sigmoid()[:, same], score_threshold=0.1, max_detections=5)
        levels = [tensor.permute(0, 2, 1)[tensor[:, 0, 0] > -9, ..., None] for tensor in (loc, logits)]
        of_levels = ssd_ops.detect([levels[0]], [levels[1]], priors, max_detections=5)
        return sum(result.sum() for result in (boxes, found.boxes, found.scores, softly.scores, of_levels.scores))

    inputs = BOXES.view(2, 15, 4).sin(), OTHERS.view(2, 15, 4), BOXES[:15]
    assert 0 < int((BOXES[:15, 0] < 0.5).sum()) < 15
    grads = []
    for function in (total, torch.compile(total, backend="aot_eager", fullgraph=True)):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        grads.append(torch.autograd.grad(function(*leaves), leaves))
    assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in zip(*grads, strict=True))


def test_compiled_soft_nms_of_an_unknown_number_of_boxes_needs_max_detections() -> None:
    def compiled(boxes: Tensor, scores: Tensor) -> Tensor:
        return ssd_ops.soft_nms(boxes[scores > 0.5], scores[scores > 0.5], score_threshold=0.1).scores

    with pytest.raises(RuntimeError, match="max_detections must be given where the compiler does not know the number"):
        torch.compile(compiled, backend="aot_eager", fullgraph=True)(BOXES, SCORES)


class SoftNMS(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> Any:
        return ssd_ops.soft_nms(boxes, scores, score_threshold=0.1, max_detections=3)


def test_exported_soft_nms_takes_any_number_of_boxes() -> None:
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(SoftNMS(), (BOXES, SCORES), dynamic_shapes=({0: rows}, {0: rows}))
    for count in (2, 30):
        found = program.module()(BOXES[:count], SCORES[:count])
        expected = SoftNMS()(BOXES[:count], SCORES[:count])
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


class Detector(nn.Module):
    def forward(self, loc: Tensor, logits: Tensor, priors: Tensor) -> Any:
        found = ssd_ops.detect(loc, logits, priors, max_detections=5)
        softly = ssd_ops.soft_nms(priors[None], logits.sigmoid()[:1], score_threshold=0.1, max_detections=5)
        offsets = torch.tensor([0, 2, 3])
        return found, softly, ssd_ops.match_priors(priors[:3], NAMES[:3] + 1, priors, offsets=offsets)


def test_exported_results_are_saved_and_loaded() -> None:
    inputs = BOXES.view(2, 15, 4).sin(), OTHERS.view(2, 15, 4), BOXES[:15]
    file = io.BytesIO()
    torch.export.save(torch.export.export(Detector(), inputs), file)
    file.seek(0)
    results, expected = torch.export.load(file).module()(*inputs), Detector()(*inputs)
    assert [type(result) for result in results] == [type(result) for result in expected]
    assert all(
        torch.equal(*pair) for pair in zip(_pytree.tree_leaves(results), _pytree.tree_leaves(expected), strict=True)
    )


SCRIPTED: list[tuple[Callable[..., Tensor], tuple[Any, ...]]] = [
    (ssd_ops.box_iou, (BOXES[None], OTHERS.double().expand(2, 30, 4))),
    (ssd_ops.generalized_box_iou, ((BOXES * 100).int(), (OTHERS * 100).short())),
    (ssd_ops.distance_box_iou, (BOXES, OTHERS)),
    (ssd_ops.complete_box_iou, (BOXES, OTHERS)),
    (ssd_ops.encode_boxes, (BOXES.expand(2, 30, 4), OTHERS)),
    (ssd_ops.decode_boxes, (BOXES, OTHERS.expand(2, 30, 4), [0.1, 0.2, 0.1, 0.2])),
    (ssd_ops.nms, (BOXES, SCORES, 0.3)),
    (ssd_ops.batched_nms, (BOXES, SCORES, NAMES, 0.3)),
    (ssd_ops.batched_nms, (BOXES, SCORES, NAMES * 0.5, 0.3)),
]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("function", "inputs"), SCRIPTED, ids=[function.__name__ for function, _ in SCRIPTED])
def test_scripted(function: Callable[..., Tensor], inputs: tuple[Any, ...]) -> None:
    assert torch.equal(torch.jit.script(function)(*inputs), function(*inputs))


def test_dtensors_raise() -> None:
    distributed = pytest.importorskip("torch.distributed")
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if not distributed.is_available() or distributed.is_initialized():
        pytest.skip("no process group of its own")
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        boxes = distribute_tensor(BOXES, init_device_mesh("cpu", (1,)), [Shard(0)])
        with pytest.raises(RuntimeError, match=r"^box_iou takes no DTensor: give full_tensor\(\)"):
            ssd_ops.box_iou(boxes, boxes)
        level = boxes.full_tensor().view(1, 120, 1, 1)
        sharded = distribute_tensor(level, boxes.device_mesh, [Shard(0)])
        with pytest.raises(RuntimeError, match=r"^detect takes no DTensor: give full_tensor\(\)"):
            ssd_ops.detect([sharded], [level], BOXES)
    finally:
        distributed.destroy_process_group()
