"""The presets: what each known SSD system does around the network, as data.

A preset follows its system except in its faults and in what no rule here can say:

amdegroot  takes COCO sizes for any number of classes but 21: here VOC sizes unless asked. Its limit of 200 boxes an
           image has no effect (200 of each class come out): here it holds. Its loss divides by 0 and its matching fails
           where a batch or image has no object, and log-sum-exp of one row depends on the others: not here. It has no
           SSD512: here it has, by the same rules.
balancap   chooses one negative more for each image, and drops all negatives that tie with the last one chosen: here there
           are 3 for each positive, at least one for each image. It keeps 200 boxes of each class, here there is no
           limit; scores equal to the threshold pass there, not here. L2Norm's weights start at 1, here at 20.
caffe      cuts prior sizes to integers (SSD512 gets 35, 76, 153 ... for 35.84, 76.8, 153.6 ...): not here. An object
           that overlaps no prior by more than 1e-6 gets none there; here by more than 0.
lufficc    writes 537.65 as SSD512's last VOC size, where the rule gives 537.6: kept, since its weights learned it.
nvidia     returns detections by rising score: here by falling. Its decoder writes into the network's output, so that
           a second call differs: not here. Older versions count a prior twice that is positive and mined: not here.
           Its evaluation suppresses at 0.5, which is taken here; its decoder's own default is 0.45.
qfgaohao   divides by 0 in a batch without objects and fails in an image without them: not here. Its soft-NMS is
           ssd_ops.soft_nms.
torchvision counts positives twice in the classification loss of an image where 3 * positives exceed the negatives: not
           here. Which object takes a prior that two claim is undefined there on CUDA: here the last one.
all        but caffe and balancap let an object lose its only prior to a later one, and so does their preset (rule
           "last"); under balancap's an object that no prior overlaps by more than 0.5 has none from the start. All but
           torchvision decode sizes without a limit: here it is torchvision's, a factor of 1000 / 16, for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssd.errors import unknown
from ssd.presets.preset import VGG_MEAN_RGB, Preset

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PRESETS: dict[str, Preset] = {
    # torchvision.models.detection.ssd300_vgg16; its mean is given to five digits
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

# What a family of networks changes: its weights decide the input it expects, its authors the post-process. "*" stands for
# presets that a family does not name.
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
}
FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "vgg": {},
    "resnet": {"*": _RESNET},
    "mobilenet_v2": {"*": _MOBILENET, "torchvision": {**_MOBILENET, **_SSDLITE_POST}, **_MOBILENET_OF},
    "mobilenet_v3": {"*": _MOBILENET_V3, "torchvision": {**_MOBILENET_V3, **_SSDLITE_POST}, **_MOBILENET_OF},
    "tiny": {
        "*": {"prior_sizes": "geometric", "steps": None, "mean": (0.5,) * 3, "std": (0.25,) * 3, "channels": "rgb"}
    },
}


def get_preset(preset: str | Preset, family: str = "vgg", overrides: Mapping[str, Any] | None = None) -> Preset:
    """Finds a preset by name, fits it to a family of networks, and applies the user's own values over it.

    Raises:
        ValueError: no preset of that name (names the near one), or a value that cannot be meant.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(unknown("preset", preset, PRESETS))
        changes = FAMILIES.get(family, {})
        preset = PRESETS[preset].replace(**changes.get(preset, changes.get("*", {})))
    return preset.replace(**dict(overrides or {}))
