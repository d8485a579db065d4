"""Detects the network of a checkpoint from its names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ssd.checkpoints.layout import Layout
from ssd.checkpoints.layouts import find_layout
from ssd.checkpoints.other_networks import reject_other_network
from ssd.checkpoints.reading import Checkpoint, Source, read_checkpoint
from ssd.checkpoints.report import preset_options
from ssd.models import MODELS
from ssd.models.backbone_weights import RESNET_DEPTHS


def network_of_file(source: Source) -> dict[str, Any]:
    """Returns the arguments of `build_model` for the network of a checkpoint; raises what `network_of` raises."""
    checkpoint = read_checkpoint(source)
    return dict(network_of(checkpoint, find_layout(checkpoint.state, None, checkpoint.source)))


def network_of(checkpoint: Checkpoint, layout: Layout) -> dict[str, Any]:
    """Returns the arguments of `build_model` for the network of a checkpoint.

    Raises:
        ValueError: It is a backbone, or a network that cannot be determined from the names.
    """
    if checkpoint.build_args is not None:
        return checkpoint.build_args
    state = checkpoint.state
    reject_other_network(state, checkpoint.source)
    network = None if layout.backbone_only else _network(state, layout.name)
    if network is None:
        raise ValueError(
            f"{checkpoint.source}: the network cannot be determined from the names; build it with build_model, then use "
            "load_weights"
        )
    name, options = network
    classes = _classes(state, layout, _first_boxes(name, options))
    preset = layout.preset or "torchvision"
    rules = preset_options(layout, MODELS[name].family, classes)
    return {"name": name, "num_classes": classes, "preset": preset, **rules, **options}


def _network(state: Mapping[str, Tensor], system: str) -> tuple[str, dict[str, Any]] | None:
    if system in ("ssd", "torchvision"):
        if "backbone.scale_weight" in state:
            return ("ssd512_vgg16" if "backbone.extra.5.0.weight" in state else "ssd300_vgg16"), {}
        if "backbone.features.0.13.0.weight" in state:
            tail = state["backbone.extra.0.0.0.weight"].shape[1]
            return "ssdlite320_mobilenet_v3_large", {"reduced_tail": tail == 480}
        return None
    if system == "nvidia":
        stem = "feature_extractor.feature_extractor.6."
        blocks = {key.removeprefix(stem).partition(".")[0] for key in state if key.startswith(stem)}
        depth = RESNET_DEPTHS.get((len(blocks), f"{stem}0.conv3.weight" in state))
        return None if depth is None else (f"ssd300_resnet{depth}", {})
    if system == "tensorflow":
        return _tensorflow_network(state)
    if system in ("qfgaohao", "dusty_nv"):
        if "base_net.13.3.weight" in state:
            return "ssd300_mobilenet_v1", {"layout": "qfgaohao_lite" if "extras.0.2.0.weight" in state else "qfgaohao"}
        if "base_net.3.squeeze.weight" in state:
            return "ssdlite300_squeezenet1_1", {}
        if "base_net.1.conv.0.weight" in state:
            return "ssdlite320_mobilenet_v2", {"layout": "qfgaohao", "image_size": 300}
        if "base_net.33.weight" not in state:
            return None
        return "ssd300_vgg16", {"norm": "l2" if "source_layer_add_ons.0.scale" in state else "batch"}
    if system == "lufficc" and "backbone.vgg.0.weight" not in state:
        return ("ssdlite320_mobilenet_v2", {"layout": "lufficc"}) if "backbone.features.18.0.weight" in state else None
    seventh = {
        "amdegroot": "loc.6.weight",
        "lufficc_v1": "regression_headers.6.weight",
        "lufficc": "box_head.predictor.reg_headers.6.weight",
        "caffe": "conv10_2_mbox_loc.weight",
        "balancap": "block12_box/conv_loc/weights",
    }
    return ("ssd512_vgg16" if seventh.get(system) in state else "ssd300_vgg16"), {}


def _tensorflow_network(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    if "FeatureExtractor/MobilenetV1/Conv2d_0/weights" in state:
        return "ssd300_mobilenet_v1", {"layout": "tensorflow"}
    lite = "BoxPredictor_0/ClassPredictor_depthwise/depthwise_weights" in state
    layout = "tensorflow" if lite else "tensorflow_ssd"
    return "ssdlite320_mobilenet_v2", {"layout": layout, "image_size": 300}


def _first_boxes(name: str, options: Mapping[str, Any]) -> int:
    """Returns the number of boxes in a cell of the first level."""
    if str(options.get("layout")).startswith("tensorflow"):
        return 3
    return 4 if name.endswith("vgg16") or "resnet" in name else 6


def _classes(state: Mapping[str, Tensor], layout: Layout, boxes: int) -> int:
    """Returns the number of classes with the background, from the first class head, with `boxes` boxes per cell."""
    # the last layer of a separable head of qfgaohao (with norm, without) or torchvision; a single convolution
    for layer in (".3", ".2", ".1", ""):
        bias = state.get(layout.name_of(f"head.classification_head.module_list.0{layer}.bias") or "")
        if bias is not None and bias.dim() == 1 and bias.shape[0] % boxes == 0:
            return bias.shape[0] // boxes
    raise ValueError(f"the first class head has no bias for {boxes} boxes per cell; build the model with build_model")
