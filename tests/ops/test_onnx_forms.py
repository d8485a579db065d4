"""The ops in programs that torch's exporters write as ONNX: equal to the ops in ONNX Runtime, for every input."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ssd_ops
from ssd_ops import onnx_forms
from tests.ops.boxes import random_boxes

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")
PRIORS = random_boxes(40, seed=3).clamp(0, 1)
NAMES = ["boxes", "scores", "idxs", "others", "loc", "logits"]
Inputs = tuple[Tensor, ...]


class Selections(nn.Module):
    """Results that are equal bit for bit or not at all."""

    def __init__(self, iou_threshold: float = 0.4, **options: Any) -> None:
        super().__init__()
        self.threshold, self.options = iou_threshold, options

    def forward(self, boxes: Tensor, scores: Tensor, idxs: Tensor, others: Tensor) -> Inputs:
        kept = ssd_ops.nms(boxes, scores, self.threshold, **self.options)
        kept_by_class = ssd_ops.batched_nms(boxes, scores, idxs, self.threshold, **self.options)
        return kept, kept_by_class, ssd_ops.box_iou(boxes, others)


class Everything(Selections):
    """With results that pass through exp, log and atan, and detections of a batch."""

    def forward(  # type: ignore[override]
        self, boxes: Tensor, scores: Tensor, idxs: Tensor, others: Tensor, loc: Tensor, logits: Tensor
    ) -> Inputs:
        coded = ssd_ops.encode_boxes(boxes, others), ssd_ops.decode_boxes(boxes, others)
        measures = ssd_ops.generalized_box_iou(boxes, others), ssd_ops.complete_box_iou(boxes, others)
        selected = super().forward(boxes, scores, idxs, others)
        return *selected, *coded, *measures, *ssd_ops.detect(loc, logits, PRIORS, max_detections=50)


def grid_boxes(count: int, seed: int) -> Tensor:
    """Boxes with small whole coordinates: many pairs have the same IoU, many boxes are points."""
    numbers = torch.randint(0, 6, (count, 4), generator=torch.Generator().manual_seed(seed)).float()
    return torch.cat([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], dim=1)


def raw_outputs(batch: int) -> Inputs:
    generator = torch.Generator().manual_seed(batch)
    loc, logits = torch.randn(batch, 40, 4, generator=generator), 2 * torch.randn(batch, 40, 4, generator=generator)
    logits[0, 3], logits[0, 5:9] = torch.nan, logits[0, 5]  # no detection; ties
    return loc, logits


def cases() -> Iterator[Inputs]:
    """Inputs of Selections: no box, one, ties, and boxes and scores that are not finite."""
    for count in (0, 1, 50):
        scores = (torch.arange(count) * 7 % 5).float()
        yield grid_boxes(count, 1), scores, torch.arange(count) % 3 - 1, grid_boxes(count, 2)
    boxes = grid_boxes(50, 4)
    boxes[3], boxes[5, 2], boxes[9, 2:] = torch.nan, torch.nan, torch.inf
    boxes[7], boxes[11] = torch.tensor([5.0, 5, 1, 1]), torch.tensor([5.0, 1, 1, 5])  # inverted
    scores = (torch.arange(50) * 7 % 11).float() - 5
    scores[10], scores[22], scores[20], scores[21] = torch.nan, torch.nan, torch.inf, -torch.inf
    for idxs in (torch.full((50,), 2**40), torch.arange(50) % 4 * 2**33):
        yield boxes, scores, idxs, grid_boxes(50, 5)


def exported(module: nn.Module, inputs: Inputs, *, dynamo: bool) -> Callable[..., list[Tensor]]:
    """Returns a function that runs the exported module, whose inputs have dynamic first dimensions."""
    names, file = NAMES[: len(inputs)], io.BytesIO()
    if dynamo:
        pytest.importorskip("onnxscript")
        rows, batch = torch.export.Dim("rows"), torch.export.Dim("batch")
        shapes = tuple({0: batch if name in ("loc", "logits") else rows} for name in names)
        program = torch.onnx.export(
            module, inputs, dynamo=True, verbose=False, input_names=names, dynamic_shapes=shapes
        )
        assert program is not None
        data = program.model_proto.SerializeToString()
    else:
        axes = {name: {0: "batch" if name in ("loc", "logits") else "rows"} for name in names}
        torch.onnx.export(module, inputs, file, dynamo=False, opset_version=17, input_names=names, dynamic_axes=axes)
        data = file.getvalue()
    assert {node.domain for node in onnx.load_from_string(data).graph.node} == {""}
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda *args: [
        torch.from_numpy(result)
        for result in session.run(None, dict(zip(names, [arg.numpy() for arg in args], strict=True)))
    ]


def test_all_forms() -> None:
    module = Everything()
    inputs = list(cases())
    run = exported(module, (*inputs[2], *raw_outputs(2)), dynamo=False)
    for batch, case in zip((1, 3, 2, 3, 1), inputs, strict=True):
        case = (*case, *raw_outputs(batch))
        for i, (result, expected) in enumerate(zip(run(*case), module(*case), strict=True)):
            close = {"rtol": 0, "atol": 0} if i < 3 else {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(result, expected, **close, equal_nan=True, msg=lambda m, i=i: f"result {i}: {m}")


@pytest.mark.slow
def test_the_exporter_of_torch_export() -> None:  # one program: it takes seconds; tests/ssd exports a detector
    inputs = list(cases())
    run = exported(Selections(), inputs[2], dynamo=True)
    for case in inputs:
        for result, expected in zip(run(*case), Selections()(*case), strict=True):
            torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("options", [{"suppress_equal": True, "iou_threshold": 0.5}, {"iou_threshold": 1 / 3}], ids=str)
def test_thresholds_are_compared_as_in_the_op(options: dict[str, Any]) -> None:
    module = Selections(**options)
    inputs = list(cases())
    run = exported(module, inputs[2], dynamo=False)
    for case in inputs:
        assert all(torch.equal(a, b) for a, b in zip(run(*case)[:2], module(*case)[:2], strict=True))


DETECT = [
    {"multi_label": False, "min_size": 1 / 3, "clip": False},
    {"suppress_equal": True, "iou_threshold": 1 / 3, "candidates_per_class": 7, "max_detections": 300},
]


@pytest.mark.parametrize("options", DETECT, ids=str)
def test_options_of_detect(options: dict[str, Any]) -> None:
    class Detect(nn.Module):
        def forward(self, loc: Tensor, logits: Tensor) -> Inputs:
            return tuple(ssd_ops.detect(loc, logits, PRIORS, **options))

    file = io.BytesIO()
    torch.onnx.export(Detect(), raw_outputs(2), file, dynamo=False, opset_version=17, input_names=["loc", "logits"])
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    loc, logits = raw_outputs(2)
    results = session.run(None, {"loc": loc.numpy(), "logits": logits.numpy()})
    for result, expected in zip(results, Detect()(loc, logits), strict=True):
        torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-5, atol=1e-6)


def test_boxes_of_each_class() -> None:
    class PerClass(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> Inputs:
            options = {"score_threshold": -1 / 3, "iou_threshold": 0.4, "candidates_per_class": 9, "max_detections": 20}
            return tuple(ssd_ops.multiclass_nms(boxes, scores, **options, min_size=2))

    boxes = torch.stack([grid_boxes(120, seed).view(40, 3, 4) for seed in (1, 2)])
    scores = (torch.arange(240) * 7 % 23 - 8).float().view(2, 40, 3)
    boxes[0, 5], scores[0, 0, 1], scores[0, 1, 2] = torch.nan, torch.nan, torch.inf
    run = exported(PerClass(), (boxes, scores), dynamo=False)
    for images in (slice(0, 2), slice(1, 2)):
        results, expected = run(boxes[images], scores[images]), PerClass()(boxes[images], scores[images])
        assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))


def test_programs_of_torch_export_are_decomposed() -> None:
    pytest.importorskip("onnxscript")
    inputs, rows = list(cases())[2], torch.export.Dim("rows")
    program = torch.export.export(Selections(), inputs, dynamic_shapes=({0: rows},) * 4)
    assert "ssd_ops" in str(program.graph)
    assert "ssd_ops" not in str(program.run_decompositions(onnx_forms.decompositions()).graph)


class Unsupported(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, boxes: Tensor, scores: Tensor) -> Any:
        return self.call(boxes, scores)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b, s: ssd_ops.nms(b.double(), s, 0.5), "boxes must be float32 or half precision"),
        (lambda b, s: ssd_ops.nms(b, s, -0.5), "iou_threshold must be at least 0"),
        (lambda b, s: ssd_ops.nms(b, s[:2], 0.5), "scores must have shape"),
        (lambda b, s: ssd_ops.batched_nms(b, s, s, 0.5), "idxs must be integers"),
        (lambda b, s: ssd_ops.match_priors([b], [s.long()], b), "ssd_ops.match_priors has no form in ONNX"),
    ],
)
def test_unsupported_calls_raise(call: Callable[[Tensor, Tensor], Any], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        torch.onnx.export(
            Unsupported(call), (grid_boxes(3, 1), torch.rand(3)), io.BytesIO(), dynamo=False, opset_version=17
        )


def test_compiled_module_gets_an_error_that_says_what_to_export() -> None:
    class Plain(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
            return ssd_ops.nms(boxes, scores, 0.5)

    inputs = (grid_boxes(3, 1), torch.rand(3))
    with pytest.raises(RuntimeError, match="compiled has no form in ONNX: export the module itself"):
        torch.onnx.export(torch.jit.script(Plain()), inputs, io.BytesIO(), dynamo=False, opset_version=17)
    run = exported(Plain(), inputs, dynamo=False)  # the module itself
    assert torch.equal(run(*inputs)[0], Plain()(*inputs))
