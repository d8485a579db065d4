"""Input validation: one error for invalid input, with the same message in every implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ssd_ops
from tests.ops.conftest import Implementation

NAN, INF = float("nan"), float("inf")
BOXES, SCORES, LABELS = torch.zeros(3, 4), torch.zeros(3), torch.ones(3, dtype=torch.int64)
COMPLEX, OFFSETS = torch.zeros(3, 4, dtype=torch.complex64), torch.tensor([0, 1, 3])
BATCH, LOGITS, OF_BATCH = torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)
DETECT = {"candidates_per_class": 4, "max_detections": 4}
NMS = {"score_threshold": 0.1, "iou_threshold": 0.5, **DETECT}
SOFT = {"score_threshold": 0.1, "max_detections": 4}
FLOATS = "float16, bfloat16, float32 or float64"

# name of the function, positional arguments, named arguments, the error
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = []


# the same of what is no bool where one is expected
NO_BOOL: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []


def case(name: str, *args: Any, error: str, **kwargs: Any) -> None:
    CASES.append((name, args, kwargs, error))


def wrong_type(name: str, *args: Any, **kwargs: Any) -> None:
    """Adds a case whose last named argument is no bool."""
    NO_BOOL.append((name, args, kwargs))


for metric in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"):
    case(metric, torch.zeros(4), BOXES, error="boxes1 must have shape [..., N, 4], got [4]")
    case(metric, BOXES, torch.zeros(3, 5), error="boxes2 must have shape [..., N, 4], got [3, 5]")
    case(metric, BOXES.cfloat(), BOXES.cfloat(), error=f"boxes1 must be {FLOATS}, got complex64")
    case(metric, BOXES, BOXES.to(torch.float8_e5m2), error=f"boxes2 must be {FLOATS}, got float8_e5m2")
    leading = "boxes2 must have the leading dimensions of boxes1, [2], got [3]"
    case(metric, BATCH, torch.zeros(3, 3, 4), error=leading)
out = "out must have shape [3, 2], got [3, 3]"
case("box_iou", BOXES, BOXES[:2], out=torch.zeros(3, 3), error=out)
case("box_iou", BOXES, BOXES, out=torch.zeros(3, 3).double(), error="out must be float32, got float64")
case("box_iou", BOXES, BOXES, out=torch.zeros(3, 6)[:, ::2], error="out must be contiguous, got strides [6, 2]")

for name, argument in (("encode_boxes", "boxes"), ("decode_boxes", "deltas")):
    case(name, torch.zeros(3, 5), BOXES, error=f"{argument} must have shape [..., 4], got [3, 5]")
    case(name, BOXES, torch.zeros(3, 3), error="priors must have shape [..., 4], got [3, 3]")
    case(name, BOXES.cfloat(), BOXES, error=f"{argument} must be {FLOATS}, got complex64")
    case(name, BOXES, BOXES[:2], error=f"priors must have the last dimensions of {argument}, [3, 4], got [2, 4]")
    variances = "variances must be 2 or 4 numbers above 0, got "
    case(name, BOXES, BOXES, variances=(0.1, 0.1, 0.2), error=variances + "[0.1, 0.1, 0.2]")
    case(name, BOXES, BOXES, variances=(0.1, 0), error=variances + "[0.1, 0.1, 0, 0]")
    case(name, BOXES, BOXES, variances=(NAN, 1), error=variances + "[nan, nan, 1, 1]")
    words = "code_type must be one of center_size, corner, corner_size, got center"
    case(name, BOXES, BOXES, code_type="center", error=words)


def match(error: str, boxes: Any = BOXES, labels: Any = LABELS, priors: Any = BOXES, **kwargs: Any) -> None:
    case("match_priors", boxes, labels, priors, error=error, **kwargs)


match("gt_boxes must have shape [sum G, 4], got [3, 5]", boxes=torch.zeros(3, 5), offsets=OFFSETS)
match(f"gt_boxes must be {FLOATS}, got complex64", boxes=COMPLEX, offsets=OFFSETS)
match("gt_labels must have shape [3], got [2]", labels=LABELS[:2], offsets=OFFSETS)
match("gt_labels must be int64, got float32", labels=SCORES, offsets=OFFSETS)
match("gt_labels must be 1 or more, got 0 at index 2", labels=torch.tensor([1, 1, 0]), offsets=OFFSETS)
match("priors must have shape [P, 4], got [4]", priors=torch.zeros(4), offsets=OFFSETS)
match(f"priors must be {FLOATS}, got complex64", priors=COMPLEX, offsets=OFFSETS)
match("offsets must have shape [B + 1], got [0]", offsets=torch.tensor([], dtype=torch.int64))
match("offsets must be int64, got int32", offsets=OFFSETS.int())
fall = "offsets must not decrease, got offsets[1] = 2 and offsets[2] = 1"
match(fall, offsets=torch.tensor([0, 2, 1, 3]))
match("offsets must run from 0 to the number of boxes, 3, got 0 to 2", offsets=torch.tensor([0, 2]))
match("offsets must run from 0 to the number of boxes, 3, got 1 to 3", offsets=torch.tensor([1, 3]))
match("ignore must have shape [3], got [2]", offsets=OFFSETS, ignore=torch.zeros(2, dtype=torch.bool))
match("ignore must be bool, got int64", offsets=OFFSETS, ignore=LABELS)
match("iou_threshold must be a number above 0, got nan", offsets=OFFSETS, iou_threshold=NAN)
match("iou_threshold must be a number above 0, got 0", offsets=OFFSETS, iou_threshold=0.0)
match("rule must be one of greedy, last, none, got best", offsets=OFFSETS, rule="best")
wrong_type("match_priors", BOXES, LABELS, BOXES, offsets=OFFSETS, match_equal=">")
match("variances must be 2 or 4 numbers above 0, got [-1, -1, 1, 1]", offsets=OFFSETS, variances=(-1, 1))
packed = "offsets must be given with packed gt_boxes, got None (or give a list with one tensor an image)"
match(packed)
match("offsets must be None when gt_boxes is a list, got a tensor", boxes=[BOXES], labels=[LABELS], offsets=OFFSETS)
match("gt_labels must be a list of 1 tensors like gt_boxes, got a list of 2", boxes=[BOXES], labels=[LABELS] * 2)
match("gt_labels[1] must have shape [3] like gt_boxes[1], got [2]", boxes=[BOXES] * 2, labels=[LABELS, LABELS[:2]])


def loss(error: str, position: int | None = None, value: Any = None, **kwargs: Any) -> None:
    args = [BATCH, LOGITS, BATCH, OF_BATCH]
    if position is not None:
        args[position] = value
    case("multibox_loss", *args, error=error, **kwargs)


loss("loc must have shape [B, P, 4], got [3, 4]", 0, BOXES)
loss(f"loc must be {FLOATS}, got complex64", 0, BATCH.cfloat())
loss("logits must have shape [2, 3, C], got [2, 4, 5]", 1, torch.zeros(2, 4, 5))
loss(f"logits must be {FLOATS}, got complex64", 1, LOGITS.cfloat())
loss("logits must have at least 1 class, the background, got shape [2, 3, 0]", 1, torch.zeros(2, 3, 0))
loss("loc_targets must have shape [2, 3, 4], got [3, 4]", 2, BOXES)
loss("labels must have shape [2, 3], got [2, 2]", 3, OF_BATCH[:, :2])
loss("labels must be int64, got int32", 3, OF_BATCH.int())
loss("labels must be between -1 and 4, got 5 at index 1", 3, torch.tensor([[0, 5, 0], [0, 0, 0]]))
loss("labels must be between -1 and 4, got -2 at index 3", 3, torch.tensor([[0, 0, 0], [-2, 0, 9]]))
loss("neg_pos_ratio must be 0 or more, got -1", neg_pos_ratio=-1.0)
loss("neg_pos_ratio must be 0 or more, got nan", neg_pos_ratio=NAN)
loss("normalizer must be one of batch, image, batch_size, got mean", normalizer="mean")
loss("min_negatives must be 0 or more, got -3", min_negatives=-3)
loss("mining must be one of image, batch, got all", mining="all")
image = "normalizer must be batch or batch_size where mining is batch, got image"
loss(image, mining="batch", normalizer="image")

for name, extra in (("nms", ()), ("batched_nms", (LABELS,))):
    case(name, BATCH, SCORES, *extra, 0.5, error="boxes must have shape [N, 4], got [2, 3, 4]")
    case(name, BOXES.cfloat(), SCORES, *extra, 0.5, error=f"boxes must be {FLOATS}, got complex64")
    case(name, BOXES, SCORES[:2], *extra, 0.5, error="scores must have shape [3], got [2]")
    case(name, BOXES, SCORES.cfloat(), *extra, 0.5, error=f"scores must be {FLOATS}, got complex64")
    case(name, BOXES, SCORES, *extra, NAN, error="iou_threshold must be a number, got nan")
    wrong_type(name, BOXES, SCORES, *extra, 0.5, suppress_equal=">=")
case("batched_nms", BOXES, SCORES, LABELS[:2], 0.5, error="idxs must have shape [3], got [2]")
case("batched_nms", BOXES, SCORES, SCORES.cfloat(), 0.5, error="idxs must be int64, got complex64")

single = "boxes must have shape [3, 4], got [2, 3, 4]"  # scores [N] are those of a single set
case("soft_nms", BATCH, SCORES, **SOFT, error=single)
for name, options in (("multiclass_nms", NMS), ("soft_nms", SOFT)):
    case(name, BATCH, SCORES[None], **options, error="scores must have shape [B, N, C], got [1, 3]")
    shape = "boxes must have shape [2, 3, 4] or [2, 3, 5, 4], got [3, 4]"
    case(name, BOXES, LOGITS, **options, error=shape)
    case(name, BATCH, LOGITS.cfloat(), **options, error=f"scores must be {FLOATS}, got complex64")
    case(name, BATCH.cfloat(), LOGITS, **options, error=f"boxes must be {FLOATS}, got complex64")
    case(name, BATCH, LOGITS, **{**options, "score_threshold": NAN}, error="score_threshold must be a number, got nan")
    case(name, BATCH, LOGITS, **{**options, "score_threshold": INF}, error="score_threshold must be finite, got inf")
    case(name, BATCH, LOGITS, **{**options, "iou_threshold": -INF}, error="iou_threshold must be finite, got -inf")
    case(name, BATCH, LOGITS, **{**options, "max_detections": 0}, error="max_detections must be at least 1, got 0")
    huge = "max_detections must be less than 2147483648, got 1099511627776"
    case(name, BATCH, LOGITS, **{**options, "max_detections": 2**40}, error=huge)
none = "candidates_per_class must be at least 1, got -2"
case("multiclass_nms", BATCH, LOGITS, **{**NMS, "candidates_per_class": -2}, error=none)
for name, options in (("multiclass_nms", NMS), ("detect", {})):
    args = (BATCH, LOGITS) if options else (BATCH, LOGITS, BOXES)
    case(name, *args, **options, min_size=-1.0, error="min_size must be 0 or more, got -1")
    case(name, *args, **options, min_size=NAN, error="min_size must be 0 or more, got nan")
wrong_type("multiclass_nms", BATCH, LOGITS, **NMS, suppress_equal=1)
wrong_type("detect", BATCH, LOGITS, BOXES, multi_label="best")
wrong_type("detect", BATCH, LOGITS, BOXES, clip="no")
wrong_type("soft_nms", BATCH, LOGITS, **SOFT, suppress_equal="")
wrong_type("soft_nms", BATCH, LOGITS, **SOFT, keep_equal=None)
case("soft_nms", BATCH, LOGITS, **SOFT, method="cubic", error="method must be one of linear, gaussian, got cubic")
case("soft_nms", BATCH, LOGITS, **SOFT, sigma=0.0, error="sigma must be a number above 0, got 0")

case("detect", BOXES, LOGITS, BOXES, error="loc must have shape [B, P, 4], got [3, 4]")
case("detect", BATCH.cfloat(), LOGITS, BOXES, error=f"loc must be {FLOATS}, got complex64")
case("detect", BATCH, LOGITS[:1], BOXES, error="logits must have shape [2, 3, C], got [1, 3, 5]")
background = "logits must have at least 1 class, the background, got shape [2, 3, 0]"
case("detect", BATCH, LOGITS[..., :0], BOXES, error=background)
case("detect", BATCH, LOGITS, BOXES[:2], error="priors must have shape [3, 4], got [2, 4]")
case("detect", BATCH, LOGITS, BOXES, score_threshold=NAN, error="score_threshold must be a number, got nan")
case("detect", BATCH, LOGITS, BOXES, iou_threshold=INF, error="iou_threshold must be finite, got inf")
case("detect", BATCH, LOGITS, BOXES, max_detections=0, error="max_detections must be at least 1, got 0")
case("detect", BATCH, LOGITS, BOXES, candidates_per_class=0, error="candidates_per_class must be at least 1, got 0")
wrong_type("detect", BATCH, LOGITS, BOXES, suppress_equal="<")
zero = "variances must be 2 or 4 numbers above 0, got [0, 0, 1, 1]"
case("detect", BATCH, LOGITS, BOXES, variances=(0, 1), error=zero)


def render(error: str, **kwargs: Any) -> None:
    packed = {"offsets": torch.tensor([0, 12]), "sizes": torch.tensor([[2, 2], [2, 1]])}
    arguments = {"images": torch.zeros(18, dtype=torch.uint8), "crops": torch.zeros(2, 4), "size": 3, **packed}
    case("render_images", error=error, **{**arguments, **kwargs})


render("images must have shape [N], got [2, 9]", images=torch.zeros(2, 9, dtype=torch.uint8))
render("images must be uint8, got float32", images=torch.zeros(18))
render("crops must have shape [B, 4], got [2, 3]", crops=torch.zeros(2, 3))
render(f"crops must be {FLOATS}, got complex64", crops=torch.zeros(2, 4).cfloat())
render("offsets must have shape [2], got [3]", offsets=torch.zeros(3).long())
render("offsets must be int64, got int32", offsets=torch.zeros(2).int())
render("sizes must have shape [2, 2], got [2]", sizes=torch.zeros(2).long())
render("sizes must be int64, got float32", sizes=torch.zeros(2, 2))
render("sizes must be between 0 and 32767, got -1 at index 1", sizes=torch.tensor([[2, -1], [0, 0]]))
render("sizes must be between 0 and 32767, got 40000 at index 2", sizes=torch.tensor([[2, 0], [40000, 0]]))
bytes_needed = "images must hold 3 x 2 x 2 bytes from offsets[1] = 12 on, got 18 bytes"
render(bytes_needed, sizes=torch.tensor([[2, 2], [2, 2]]))
render("images must hold 3 x 2 x 2 bytes from offsets[0] = -1 on, got 18 bytes", offsets=torch.tensor([-1, 0]))
render("flip must have shape [2], got [3]", flip=torch.zeros(3).bool())
render("flip must be bool, got uint8", flip=torch.zeros(2).byte())
render("color_matrices must have shape [2, 3, 4], got [3, 4]", color_matrices=torch.zeros(3, 4))
render(f"color_matrices must be {FLOATS}, got complex64", color_matrices=torch.zeros(2, 3, 4).cfloat())
render("hue must have shape [2], got [2, 1]", hue=torch.zeros(2, 1))
render(f"hue must be {FLOATS}, got complex64", hue=torch.zeros(2).cfloat())
render("size must be at least 1, got 0", size=0)
render("size must be less than 32768, got 1048576", size=2**20)
render("mean must be 3 numbers, got [1, 2]", mean=(1, 2))
render("fill must be 3 finite numbers, got [0, nan, 0]", fill=(0, NAN, 0))
render("std must be 3 numbers above 0, got [1, 0, 1]", std=(1, 0, 1))
render("dtype must be one of float32, float16, bfloat16, got float64", dtype=torch.float64)
with_list = "(or give a list with one tensor an image)"
render(f"offsets must be given with packed images, got None {with_list}", offsets=None)
render(f"sizes must be given with packed images, got None {with_list}", sizes=None)
one = torch.zeros(3, 2, 2, dtype=torch.uint8)
render("offsets must be None when images is a list, got a tensor", images=[one, one])
lists = {"offsets": None, "sizes": None}
render("images[1] must have shape [3, H, W], got [2, 2, 3]", images=[one, one.reshape(2, 2, 3)], **lists)
render("images[0] must be uint8, got float32", images=[one.float(), one], **lists)
render("offsets must have shape [2], got [1]", images=[one], **lists)

VALIDATED_ON_THE_CPU_ONLY = (
    "offsets must not decrease",
    "offsets must run",
    "gt_labels must be 1",
    "labels must be between",
    "sizes must be between",
    "images must hold",
)


@pytest.mark.parametrize(("name", "args", "kwargs", "error"), CASES, ids=[f"{c[0]}: {c[3]}" for c in CASES])
def test_error(impl: Implementation, name: str, args: Any, kwargs: Any, error: str) -> None:
    if impl.name in ("emulated", "cuda") and error.startswith(VALIDATED_ON_THE_CPU_ONLY):
        pytest.skip("on a GPU validating the values would synchronize")
    with pytest.raises(RuntimeError) as raised:
        getattr(impl, name)(*args, **kwargs)
    assert str(raised.value) == error


@pytest.mark.parametrize(("name", "args", "kwargs"), NO_BOOL)
def test_option_that_is_no_bool(impl: Implementation, name: str, args: Any, kwargs: Any) -> None:
    argument, value = list(kwargs.items())[-1]
    with pytest.raises(TypeError) as raised:
        getattr(impl, name)(*args, **kwargs)
    assert str(raised.value) == f"{argument} must be True or False, got {value!r}"


def test_device(impl: Implementation) -> None:
    """Tensors on two devices; `meta` is the second one without a GPU."""
    if impl.name != "reference":
        pytest.skip("the dispatcher takes a meta tensor to the fake kernels")
    for name, args in (("box_iou", ()), ("encode_boxes", ()), ("nms", (0.5,))):
        second = torch.zeros((3,) if name == "nms" else (3, 4), device="meta")
        with pytest.raises(RuntimeError, match=r"must be on the device of boxes1?, cpu, got meta$"):
            getattr(ssd_ops.reference, name)(BOXES, second, *args)


@pytest.mark.parametrize("name", ["grad_box_iou", "grad_encode_boxes", "grad_decode_boxes"])
def test_gradients(impl: Implementation, name: str) -> None:
    """The gradient ops are not public, but they access memory: their shapes are validated, too."""
    ops = ssd_ops.reference if impl.name == "reference" else torch.ops.ssd_ops
    options = ("box_iou",) if name == "grad_box_iou" else ([0.1, 0.1, 0.2, 0.2], "corner")
    shape = "[3, 3]" if name == "grad_box_iou" else "[3, 4]"
    boxes = BOXES.to(impl.device)
    for grad, error in (
        (torch.zeros(2, 3), f"grad must have shape {shape}, got [2, 3]"),
        (torch.zeros(3, int(shape[4])).long(), f"grad must be {FLOATS}, got int64"),
    ):
        with pytest.raises(RuntimeError) as raised:
            getattr(ops, name)(grad.to(impl.device), boxes, boxes, *options)
        assert str(raised.value) == error
    if name == "grad_box_iou":
        with pytest.raises(RuntimeError) as raised:
            getattr(ops, name)(torch.zeros(3, 3, device=impl.device), boxes, boxes, "iou")
        metrics = "box_iou, generalized_box_iou, distance_box_iou, complete_box_iou"
        assert str(raised.value) == f"metric must be one of {metrics}, got iou"
