"""Every op in plain PyTorch: the specification of all kernels, and the fallback where none is compiled."""

from ssd_ops.reference.codec import decode_boxes, encode_boxes, grad_decode_boxes, grad_encode_boxes
from ssd_ops.reference.detection import detect
from ssd_ops.reference.images import render_images
from ssd_ops.reference.loss import grad_multibox_loss, multibox_loss
from ssd_ops.reference.matching import match_priors
from ssd_ops.reference.overlap import (
    box_iou,
    complete_box_iou,
    distance_box_iou,
    generalized_box_iou,
    grad_box_iou,
)
from ssd_ops.reference.soft_suppression import soft_nms
from ssd_ops.reference.suppression import batched_nms, multiclass_nms, nms

__all__ = [
    "batched_nms",
    "box_iou",
    "complete_box_iou",
    "decode_boxes",
    "detect",
    "distance_box_iou",
    "encode_boxes",
    "generalized_box_iou",
    "grad_box_iou",
    "grad_decode_boxes",
    "grad_encode_boxes",
    "grad_multibox_loss",
    "match_priors",
    "multibox_loss",
    "multiclass_nms",
    "nms",
    "render_images",
    "soft_nms",
]
