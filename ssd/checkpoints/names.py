"""Names of weights that several systems share: rules that map this project's names to theirs."""

from __future__ import annotations

import re
from collections.abc import Callable

from ssd.models.backbone_weights import VGG_CAFFE, VGG_EXTRA

Rule = tuple[str, Callable[[re.Match[str]], str]]  # pattern of this project's name, and its name in the other system

FLAT_BLOCK = r"backbone\.(?P<part>features|extra)\.(?P<block>\d+)\.conv\.(?P<layer>\d(\.\d)?)\.(?P<rest>\w+)"
LOC, CLS = r"head\.regression_head\.module_list", r"head\.classification_head\.module_list"
_VGG_INDEX = {name: index for index, name in VGG_EXTRA.items()}  # name in the extractor -> index of the layer
VGG_NAMES = {index: name for name, index in VGG_CAFFE.items() if name.startswith("conv")}


def vgg(
    conv: Callable[[int], str],
    extra: Callable[[int, int], str],
    scale: str,
    norm: str | None = None,
) -> tuple[Rule, ...]:
    """Returns the rules for SSD on VGG16.

    Args:
        conv: Maps the index of a VGG layer to its name.
        extra: Maps the index of an extra level (from 0) and of its convolution (0 or 1) to a name.
        scale: Name of the L2Norm weight.
        norm: Name of the BatchNorm that replaces L2Norm.
    """
    rules: list[Rule] = [
        (r"backbone\.features\.(\d+)\.(weight|bias)", lambda m: f"{conv(int(m[1]))}.{m[2]}"),
        (
            r"backbone\.(extra\.0\.(?:1|3|5|7\.1|7\.3))\.(weight|bias)",
            lambda m: f"{conv(_VGG_INDEX[m[1]])}.{m[2]}",
        ),
        (
            r"backbone\.extra\.([1-9])\.([02])\.(weight|bias)",
            lambda m: f"{extra(int(m[1]) - 1, int(m[2]) // 2)}.{m[3]}",
        ),
        (r"backbone\.scale_weight", lambda m: scale),
    ]
    if norm is not None:
        rules.append((r"backbone\.norm\.(\w+)", lambda m: f"{norm}.{m[1]}"))
    return tuple(rules)


def heads(loc: Callable[[int], str], cls: Callable[[int], str]) -> tuple[Rule, ...]:
    """Returns the rules for the heads; `loc` and `cls` map the index of a level to a name."""
    return (
        (rf"{LOC}\.(\d+)\.(.+)", lambda m: f"{loc(int(m[1]))}.{m[2]}"),
        (rf"{CLS}\.(\d+)\.(.+)", lambda m: f"{cls(int(m[1]))}.{m[2]}"),
    )


def flat_block(match: re.Match[str]) -> str:
    """Returns qfgaohao's name in an inverted residual block: a flat list, where torchvision nests the layers."""
    layers = ("0.0", "0.1", "1", "2") if match["block"] == "1" and match["part"] == "features" else _EXPANDED
    stem = {"features": "base_net", "extra": "extras"}[match["part"]]
    return f"{stem}.{match['block']}.conv.{_FLAT[layers.index(match['layer'])]}.{match['rest']}"


_EXPANDED = ("0.0", "0.1", "1.0", "1.1", "2", "3")
_FLAT = (0, 1, 3, 4, 6, 7)
RESNET = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6}


def caffe_source(level: int) -> str:
    """Returns Caffe's name of the layer that the heads of a level read."""
    return ("conv4_3_norm", "fc7")[level] if level < 2 else f"conv{level + 4}_2"


def sgrvinod_source(level: int) -> str:
    """Returns sgrvinod's name of the layer that the heads of a level read."""
    return ("conv4_3", "conv7")[level] if level < 2 else f"conv{level + 6}_2"
