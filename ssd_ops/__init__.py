"""Box operations for anchor-based detectors: compiled for CPU and CUDA, with a plain PyTorch reference.

Boxes are xyxy unless a name says cxcywh. Class 0 is the background. `ssd_ops.reference` implements every op in plain
PyTorch.

Dtypes: inputs may have any dtype but complex and 8-bit floating ones, and need not have the same one. Half precision is
read as it is and computed in float32, like bool and integers of 8 or 16 bits; integers of 32 and 64 bits are computed in
float64, which is exact up to 2^53. A result of several inputs is float64 where one of them is float64 or such an integer,
else float32:

| op | result | inputs that decide its dtype |
| --- | --- | --- |
| `box_iou`, `generalized_`, `distance_`, `complete_box_iou` | IoU | `boxes1`, `boxes2` |
| `encode_boxes`, `decode_boxes` | deltas, boxes | `boxes` or `deltas`, `priors` |
| `match_priors` | `loc_targets`; `labels` and `gt_index` are int64 | `gt_boxes`, `priors` |
| `multibox_loss` | both losses | `loc`, `logits`, `loc_targets` |
| `nms`, `batched_nms` | indices, int64 | overlap by `boxes` alone, order by `scores` alone |
| `multiclass_nms`, `soft_nms` | `boxes`, `scores`; `labels`, `counts` and `indices` are int64 | `boxes`, `scores` |
| `detect` | `boxes`, `scores`; `labels` and `counts` are int64 | `loc`, `logits`, `priors` |
| `render_images` | as its argument `dtype` says; computed in float32 | none |

A gradient has the dtype of its input.
"""

from ssd_ops import _library, _program_forms, _register, reference
from ssd_ops._library import build_info
from ssd_ops._torchvision import install, uninstall
from ssd_ops.codec import decode_boxes, encode_boxes
from ssd_ops.detection import detect
from ssd_ops.images import render_images
from ssd_ops.loss import multibox_loss
from ssd_ops.matching import match_priors
from ssd_ops.overlap import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou
from ssd_ops.results import Detections, PriorMatches, SoftDetections
from ssd_ops.soft_suppression import soft_nms
from ssd_ops.suppression import batched_nms, multiclass_nms, nms

_registrations = _register.register("ssd_ops", defined=_library.load_library())
_program_forms.register(globals())

__all__ = [
    "Detections",
    "PriorMatches",
    "SoftDetections",
    "batched_nms",
    "box_iou",
    "build_info",
    "complete_box_iou",
    "decode_boxes",
    "detect",
    "distance_box_iou",
    "encode_boxes",
    "generalized_box_iou",
    "install",
    "match_priors",
    "multibox_loss",
    "multiclass_nms",
    "nms",
    "reference",
    "render_images",
    "soft_nms",
    "uninstall",
]
