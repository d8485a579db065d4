"""The names and orders of the weights of each system.

A layout maps a name of this project to the name of the same weights in its system; loading and exporting both use it.
This project uses torchvision's names for the models that torchvision has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ssd.checkpoints.layout import Layout
from ssd.checkpoints.names import (
    CLS,
    FLAT_BLOCK,
    LOC,
    RESNET,
    VGG_NAMES,
    Rule,
    caffe_source,
    flat_block,
    heads,
    sgrvinod_source,
    vgg,
)
from ssd.checkpoints.other_networks import reject_other_network
from ssd.checkpoints.tensorflow_layouts import BALANCAP, TENSORFLOW
from ssd.common.errors import unknown
from ssd.presets.systems import IMAGENET_MEAN, IMAGENET_STD

_QFGAOHAO_RULES: tuple[Rule, ...] = (
    *vgg(
        lambda i: f"base_net.{i}",
        lambda level, i: f"extras.{level}.{2 * i}",
        "source_layer_add_ons.0.scale",
        "source_layer_add_ons.0",
    ),
    (FLAT_BLOCK, flat_block),
    (
        r"backbone\.(?:features|blocks)\.(\d+)\.([0134]|squeeze|expand\dx\d)\.(\w+)",
        lambda m: f"base_net.{m[1]}.{m[2]}.{m[3]}",
    ),
    (r"backbone\.extras\.(.+)", lambda m: f"extras.{m[1]}"),
    *heads(lambda level: f"regression_headers.{level}", lambda level: f"classification_headers.{level}"),
)

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "ssd",
            "any model of this project",
            rf"{CLS}\..+",
            ((r".+", lambda m: m[0]),),
            box_order=None,
        ),
        Layout(
            "torchvision",
            "ssd300_vgg16 and ssdlite320_mobilenet_v3_large",
            rf"{CLS}\..+",
            ((r"(?!backbone\.norm\.).+", lambda m: m[0]),),
            preset="torchvision",
        ),
        Layout(  # lufficc's version of 2018, before its modules were regrouped; the backbone has amdegroot's names
            "lufficc_v1",
            "ssd300_vgg16 and ssd512_vgg16",
            r"l2_norm\.weight",
            (
                *vgg(lambda i: f"vgg.{i}", lambda level, i: f"extras.{2 * level + i}", "l2_norm.weight"),
                *heads(lambda level: f"regression_headers.{level}", lambda level: f"classification_headers.{level}"),
            ),
            preset="lufficc",
            sizes={81: "coco", 0: "lufficc_voc"},
        ),
        Layout(
            "amdegroot",
            "ssd300_vgg16 and ssd512_vgg16",
            r"vgg\.0\.weight",
            (
                *vgg(lambda i: f"vgg.{i}", lambda level, i: f"extras.{2 * level + i}", "L2Norm.weight"),
                *heads(lambda level: f"loc.{level}", lambda level: f"conf.{level}"),
            ),
            preset="amdegroot",
            sizes={21: "voc", 0: "coco"},
        ),
        Layout(
            "vgg16_reducedfc",
            "the backbone of ssd300_vgg16 and ssd512_vgg16",
            r"0\.weight",
            vgg(lambda i: f"{i}", lambda level, i: "", "")[:2],
            backbone_only=True,
        ),
        Layout(
            "nvidia",
            "ssd300_resnet18, 34, 50, 101 and 152",
            r"feature_extractor\.feature_extractor\..+",
            (
                (
                    r"backbone\.features\.(conv1|bn1|layer[123])\.(.+)",
                    lambda m: f"feature_extractor.feature_extractor.{RESNET[m[1]]}.{m[2]}",
                ),
                (r"backbone\.extra\.(\d+)\.([0134])\.(.+)", lambda m: f"additional_blocks.{m[1]}.{m[2]}.{m[3]}"),
                *heads(lambda level: f"loc.{level}", lambda level: f"conf.{level}"),
            ),
            columns_first=True,
            dropped=r"(compute_loss|postprocess|encoder)\..+",  # WZMIAOMIAO's constants
            preset="nvidia",
        ),
        Layout(
            "qfgaohao",
            "ssd300_vgg16(norm='batch' or 'l2'), ssd300_mobilenet_v1, ssdlite300_squeezenet1_1 and "
            "ssdlite320_mobilenet_v2(layout='qfgaohao', image_size=300)",
            r"classification_headers\..+",
            _QFGAOHAO_RULES,
            preset="qfgaohao",
        ),
        Layout(  # its names are qfgaohao's, so it cannot be detected
            "dusty_nv",
            "ssd300_mobilenet_v1 and ssdlite320_mobilenet_v2(layout='qfgaohao')",
            r"$^",
            _QFGAOHAO_RULES,
            preset="dusty_nv",
        ),
        Layout(
            "lufficc",
            "ssd300_vgg16, ssd512_vgg16 and ssdlite320_mobilenet_v2(layout='lufficc')",
            r"box_head\.predictor\.cls_headers\..+",
            (
                *vgg(
                    lambda i: f"backbone.vgg.{i}",
                    lambda level, i: f"backbone.extras.{2 * level + i}",
                    "backbone.l2_norm.weight",
                ),
                (r"backbone\.features\.(\d+\.(?:conv|\d)\..+)", lambda m: f"backbone.features.{m[1]}"),
                (r"backbone\.extra\.(\d+\.conv\..+)", lambda m: f"backbone.extras.{m[1]}"),
                # separable heads are nested one level deeper
                (rf"{LOC}\.(\d+)\.(\d.*)", lambda m: f"box_head.predictor.reg_headers.{m[1]}.conv.{m[2]}"),
                (rf"{CLS}\.(\d+)\.(\d.*)", lambda m: f"box_head.predictor.cls_headers.{m[1]}.conv.{m[2]}"),
                *heads(
                    lambda level: f"box_head.predictor.reg_headers.{level}",
                    lambda level: f"box_head.predictor.cls_headers.{level}",
                ),
            ),
            preset="lufficc",
            sizes={81: "coco", 0: "lufficc_voc"},
        ),
        Layout(
            "caffe",
            "ssd300_vgg16 and ssd512_vgg16",
            r"conv4_3_norm_mbox_conf\.weight",
            (
                *vgg(
                    lambda i: {**VGG_NAMES, 31: "fc6", 33: "fc7"}[i],
                    lambda level, i: f"conv{level + 6}_{i + 1}",
                    "conv4_3_norm.weight",
                ),
                *heads(
                    lambda level: f"{caffe_source(level)}_mbox_loc", lambda level: f"{caffe_source(level)}_mbox_conf"
                ),
            ),
            preset="caffe",
            sizes={81: "coco", 0: "voc"},
        ),
        Layout(
            "sgrvinod",
            "ssd300_vgg16",
            r"pred_convs\.cl_conv4_3\.weight",
            (
                *vgg(
                    lambda i: "base." + {**VGG_NAMES, 31: "conv6", 33: "conv7"}[i],
                    lambda level, i: f"aux_convs.conv{level + 8}_{i + 1}",
                    "rescale_factors",
                ),
                *heads(
                    lambda level: f"pred_convs.loc_{sgrvinod_source(level)}",
                    lambda level: f"pred_convs.cl_{sgrvinod_source(level)}",
                ),
            ),
            box_order="grouped",
            scale_shape=(1, 512, 1, 1),
            preset="amdegroot",
            options={
                # scales 0.1, 0.2, 0.375, 0.55, 0.725, 0.9; the last level's second box is the whole image
                "prior_sizes": (30.0, 60.0, 112.5, 165.0, 217.5, 270.0, 300 / 0.9),
                "steps": None,
                "prior_order": "grouped",
                "mean": IMAGENET_MEAN,
                "std": IMAGENET_STD,
            },
        ),
        BALANCAP,
        TENSORFLOW,
    )
}


def find_layout(keys: Iterable[str], system: str | None, source: str) -> Layout:
    """Returns the layout of `system`, or detects it from the names of a state dict if that is None.

    Raises:
        ValueError: Unknown system, or the names match no known system.
    """
    if system is not None:
        if system not in LAYOUTS:
            raise ValueError(unknown("system", system, LAYOUTS))
        return LAYOUTS[system]
    names = list(keys)
    for layout in LAYOUTS.values():
        if any(re.fullmatch(layout.signature, name) for name in names):
            return layout
    reject_other_network(names, source)
    some = ", ".join(names[:5])
    raise ValueError(
        f"{source} has the names of no known system ({', '.join(LAYOUTS)}); its first names are {some}. If it is from one "
        "of them, pass system=; pass weights of a classifier to build_model as weights_backbone=. Heads that are fused "
        "into one layer (mlperf's mbox) fit no model of this project"
    )
