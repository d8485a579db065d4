"""Presets of the known SSD systems.

A preset follows its system except for these bugs and details:

amdegroot   uses COCO sizes unless there are 21 classes; here VOC sizes are the default. Its limit of 200 boxes per image
            has no effect (it returns 200 of each class); here it applies. Its loss divides by 0 and its matching fails
            for a batch or image without objects, and its log-sum-exp of a row depends on the other rows; not here. It
            has no SSD512; here it exists, with the same rules.
balancap    selects one negative more per image, and drops all negatives that tie with the last one; here there are 3
            per positive, at least one per image. It keeps 200 boxes of each class, here there is no limit. It keeps
            scores equal to the threshold, this preset does not. Its L2Norm weights start at 1, here at 20.
caffe       truncates prior sizes to integers (35, 76, 153, ... instead of 35.84, 76.8, 153.6, ... in SSD512); not here.
            It matches no prior to an object whose highest IoU is at most 1e-6; here only at 0.
lufficc     has 537.65 as the last VOC size of SSD512, where the formula gives 537.6; kept, because its weights were
            trained with it.
nvidia      returns detections in ascending order of score; here in descending order. Its decoder modifies the network
            output in place, so that a second call differs; not here. Older versions count a prior twice that is both
            positive and mined; not here. The NMS threshold is 0.5, as in its evaluation; its decoder defaults to 0.45.
qfgaohao    divides by 0 in a batch without objects and fails for an image without objects; not here. Its soft-NMS is
            available as ssd_ops.soft_nms.
tensorflow  scores each class by a sigmoid, and its loss is the binary cross entropy of each; here the loss needs
            scores="softmax". It keeps up to 3000 hard examples after an NMS of their boxes; here 3 negatives per positive.
            Its bilinear resizing samples at the corners of pixels; here at their centers.
torchvision counts positives twice in the classification loss of an image with fewer negatives than 3 * positives; not
            here. On CUDA it is undefined there which of two objects a prior is matched to; here it is the last one.
all         except caffe and balancap let a later object take the only prior of an earlier one, and so do their presets
            (rule "last"). In balancap, an object whose IoU with every prior is at most 0.5 has no prior at all. All
            except torchvision decode sizes without a limit; here all use torchvision's limit, a factor of 1000 / 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssd.common.errors import unknown
from ssd.presets.preset import VGG_MEAN_RGB, Preset

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PRESETS: dict[str, Preset] = {
    # torchvision.models.detection.ssd300_vgg16, whose mean has five digits
    "torchvision": Preset(
        "torchvision",
        prior_sizes="coco",
        clip="wh",
        rule="last",
        mean=(0.48235, 0.45882, 0.40784),
        std=(1.0 / 255.0,) * 3,
    ),
    # weiliu89/caffe, examples/ssd/ssd_pascal.py
    "caffe": Preset("caffe", clip_boxes=False, mean=VGG_MEAN_RGB[::-1], channels="bgr"),
    # amdegroot/ssd.pytorch
    "amdegroot": Preset("amdegroot", clip="all", rule="last", candidates_per_class=200, clip_boxes=False),
    # NVIDIA/DeepLearningExamples, PyTorch/Detection/SSD
    "nvidia": Preset(
        "nvidia",
        prior_sizes="coco",
        clip="all",
        rule="last",
        match_equal=False,
        normalizer="image",
        score_threshold=0.05,
        nms_iou_threshold=0.5,
        suppress_equal=True,
        candidates_per_class=200,
        clip_boxes=False,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    # qfgaohao/pytorch-ssd
    "qfgaohao": Preset(
        "qfgaohao", clip="all", rule="last", candidates_per_class=200, max_detections=None, clip_boxes=False
    ),
    # balancap/SSD-Tensorflow
    "balancap": Preset(
        "balancap",
        prior_sizes="coco",
        rule="none",
        match_equal=False,
        normalizer="batch_size",
        min_negatives=1,
        mining="batch",
        max_detections=None,
        clip_boxes=False,
    ),
    # dusty-nv/pytorch-ssd, a fork of qfgaohao's that trains at any input size
    "dusty_nv": Preset(
        "dusty_nv", clip="all", rule="last", candidates_per_class=200, max_detections=None, clip_boxes=False
    ),
    # tensorflow/models, research/object_detection/samples/configs/ssd_mobilenet_v1_coco.config
    "tensorflow": Preset(
        "tensorflow",
        prior_sizes="linear",
        steps=None,
        prior_order="tensorflow",
        rule="last",
        scores="sigmoid",
        score_threshold=1e-8,
        nms_iou_threshold=0.6,
        candidates_per_class=None,
        max_detections=100,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    ),
    # lufficc/SSD
    "lufficc": Preset(
        "lufficc",
        prior_sizes="lufficc_voc",
        clip="all",
        rule="last",
        candidates_per_class=None,
        max_detections=100,
        clip_boxes=False,
    ),
}

# Changes by network family: pretrained weights determine the input normalization, the authors the post-processing.
# "*" applies to all presets that a family does not list.
_SSDLITE_POST: dict[str, Any] = {
    "score_threshold": 0.001,
    "nms_iou_threshold": 0.55,
    "candidates_per_class": 300,
    "max_detections": 300,
}
_RESNET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "channels": "rgb"}
_MOBILENET: dict[str, Any] = {"prior_sizes": "linear", "steps": None, **_RESNET}
_MOBILENET_V3: dict[str, Any] = {**_MOBILENET, "mean": (0.5,) * 3, "std": (0.5,) * 3}
_MOBILENET_OF: dict[str, dict[str, Any]] = {
    "qfgaohao": {
        "prior_sizes": "qfgaohao_mobilenet",
        "steps": "qfgaohao_mobilenet",
        "mean": (127 / 255,) * 3,
        "std": (128 / 255,) * 3,
    },
    "lufficc": {"prior_sizes": "lufficc_mobilenet", "steps": "lufficc_mobilenet"},
    "tensorflow": {"prior_sizes": "linear", "steps": None},
}
_MOBILENET_OF["dusty_nv"] = {**_MOBILENET_OF["qfgaohao"], "prior_sizes": "dusty_nv", "steps": "dusty_nv"}
FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "vgg": {},
    "resnet": {"*": _RESNET},
    "mobilenet_v1": {"*": _MOBILENET, "torchvision": {**_MOBILENET, **_SSDLITE_POST}, **_MOBILENET_OF},
    "squeezenet": {"*": _MOBILENET, "torchvision": {**_MOBILENET, **_SSDLITE_POST}, **_MOBILENET_OF},
    "mobilenet_v2": {"*": _MOBILENET, "torchvision": {**_MOBILENET, **_SSDLITE_POST}, **_MOBILENET_OF},
    "mobilenet_v3": {"*": _MOBILENET_V3, "torchvision": {**_MOBILENET_V3, **_SSDLITE_POST}, **_MOBILENET_OF},
    "tiny": {
        "*": {"prior_sizes": "geometric", "steps": None, "mean": (0.5,) * 3, "std": (0.25,) * 3, "channels": "rgb"}
    },
}


def get_preset(preset: str | Preset, family: str = "vgg", overrides: Mapping[str, Any] | None = None) -> Preset:
    """Returns a preset by name, adapted to a network family, with the user's overrides applied.

    Raises:
        ValueError: The preset does not exist, or a value is invalid.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(unknown("preset", preset, PRESETS))
        changes = FAMILIES.get(family, {})
        preset = PRESETS[preset].replace(**changes.get(preset, changes.get("*", {})))
    return preset.replace(**dict(overrides or {}))
