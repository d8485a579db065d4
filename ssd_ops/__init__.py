"""Box operations for anchor-based detectors: compiled for CPU and CUDA, with a plain PyTorch reference.

Boxes are xyxy unless a name says cxcywh; 0 is the background class. `ssd_ops.reference` has a twin of every op.
"""

from ssd_ops import _library, _register, reference
from ssd_ops._library import build_info
from ssd_ops.codec import decode_boxes, encode_boxes
from ssd_ops.detection import detect
from ssd_ops.images import render_images
from ssd_ops.loss import multibox_loss
from ssd_ops.matching import match_priors
from ssd_ops.overlap import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou
from ssd_ops.reference import Detections, PriorMatches
from ssd_ops.suppression import batched_nms, multiclass_nms, nms, soft_nms

_registrations = _register.register("ssd_ops", defined=_library.load_library())

__all__ = [
    "Detections",
    "PriorMatches",
    "batched_nms",
    "box_iou",
    "build_info",
    "complete_box_iou",
    "decode_boxes",
    "detect",
    "distance_box_iou",
    "encode_boxes",
    "generalized_box_iou",
    "match_priors",
    "multibox_loss",
    "multiclass_nms",
    "nms",
    "reference",
    "render_images",
    "soft_nms",
]
