"""The names of variables in TensorFlow's systems: balancap's SSD and the Object Detection API's SSD MobileNet."""

from __future__ import annotations

import re

from ssd.checkpoints.layout import Layout
from ssd.checkpoints.names import VGG_NAMES, Rule, heads, vgg

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_SLOTS = r".*/(RMSProp(_1)?|Momentum|Adam(_1)?|ExponentialMovingAverage)|.*global_step|beta\d_power"
_WIDTHS = (512, 256, 256, 128)  # widths of the extra levels


def _variable(name: str) -> str:
    """Returns slim's name of a weight or bias of a convolution."""
    return re.sub(r"\.bias$", "/biases", re.sub(r"\.weight$", "/weights", name))


def _in_variables(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return tuple((pattern, lambda m, name=name: _variable(name(m))) for pattern, name in rules)


def _vgg_layer(index: int) -> str:
    layer = {**VGG_NAMES, 31: "conv6", 33: "conv7"}[index]
    return f"{layer.partition('_')[0]}/{layer}" if "_" in layer else layer


def _source(level: int) -> str:
    """Returns the scope of the heads of a level."""
    return f"block{4 if level == 0 else level + 6}_box"


BALANCAP = Layout(
    "balancap",
    "ssd300_vgg16 and ssd512_vgg16",
    r"block4_box/conv_cls/weights",
    _in_variables(
        (
            *vgg(
                _vgg_layer,
                lambda level, i: f"block{level + 8}/{('conv1x1', 'conv4x4' if level == 4 else 'conv3x3')[i]}",
                "block4_box/L2Normalization/gamma",
            ),
            *heads(lambda level: f"{_source(level)}/conv_loc", lambda level: f"{_source(level)}/conv_cls"),
        )
    ),
    dropped=_SLOTS,
    scopes={"ssd300_vgg16": "ssd_300_vgg/", "ssd512_vgg16": "ssd_512_vgg/"},
    preset="balancap",
)


def _scoped(scope: str, part: str, depthwise: bool, is_norm: bool) -> str:
    """Returns slim's name of a part of a convolution without bias, or of the BatchNorm after it."""
    if is_norm:
        return f"{scope}/BatchNorm/{_NORM.get(part, part)}"
    return f"{scope}/{'depthwise_' if depthwise else ''}weights"


def _v1_block(m: re.Match[str]) -> str:
    block, layer = int(m[1]), int(m[2])
    kind = "" if block == 0 else "_depthwise" if layer < 3 else "_pointwise"
    return _scoped(f"FeatureExtractor/MobilenetV1/Conv2d_{block}{kind}", m[3], kind == "_depthwise", layer in (1, 4))


def _extra(m: re.Match[str]) -> str:
    """An extra level is 1x1 and 3x3; flat as 0, 1, 3, 4, or (lite) nested as three convolutions, the second depthwise."""
    stem = "MobilenetV1/Conv2d_13_pointwise" if m["kind"] == "extras" else "MobilenetV2/layer_19"
    level, layer = int(m["level"]), m["layer"]
    nested = "." in layer
    conv, is_norm = (int(layer[0]), layer[2] == "1") if nested else (2 * (int(layer) // 3), layer in "14")
    width = _WIDTHS[level]
    name = f"1_Conv2d_{level + 2}_1x1_{width // 2}" if conv == 0 else f"2_Conv2d_{level + 2}_3x3_s2_{width}"
    scope = f"FeatureExtractor/{stem}_{name}{'_depthwise' if conv == 1 else ''}"
    return _scoped(scope, m["part"], conv == 1, is_norm)


# Layer of an inverted residual block -> its convolution, and whether it is the BatchNorm after it.
_EXPANDED = {f"{i}.{j}": (name, j == 1) for i, name in enumerate(("expand", "depthwise")) for j in (0, 1)}
_EXPANDED |= {"2": ("project", False), "3": ("project", True)}
_FIRST = {"0.0": ("depthwise", False), "0.1": ("depthwise", True), "1": ("project", False), "2": ("project", True)}


def _v2_block(m: re.Match[str]) -> str:
    block = int(m[1])
    name, is_norm = (_FIRST if block == 1 else _EXPANDED)[m[2]]
    scope = f"FeatureExtractor/MobilenetV2/expanded_conv{f'_{block - 1}' if block > 1 else ''}"
    return _scoped(f"{scope}/{name}", m[3], name == "depthwise", is_norm)


def _head(m: re.Match[str]) -> str:
    scope = f"BoxPredictor_{m['level']}/{'BoxEncoding' if m['kind'] == 'regression' else 'Class'}Predictor"
    if m["depthwise"]:
        return _scoped(f"{scope}_depthwise", m["part"], True, m["depthwise"] == "0.1.")
    return _variable(f"{scope}.{m['part']}")


_HEAD = r"head\.(?P<kind>regression|classification)_head\.module_list\.(?P<level>\d+)\.(?P<depthwise>0\.[01]\.)?"
TENSORFLOW = Layout(
    "tensorflow",
    "ssd300_mobilenet_v1(layout='tensorflow') and ssdlite320_mobilenet_v2(layout='tensorflow' or 'tensorflow_ssd')",
    r"FeatureExtractor/MobilenetV[12]/.+",
    (
        (r"backbone\.blocks\.(\d+)\.([0134])\.(\w+)", _v1_block),
        (
            r"backbone\.features\.(0|18)\.([01])\.(\w+)",
            lambda m: _scoped(f"FeatureExtractor/MobilenetV2/Conv{'_1' * (m[1] != '0')}", m[3], False, m[2] == "1"),
        ),
        (r"backbone\.features\.(\d+)\.conv\.(\d(?:\.\d)?)\.(\w+)", _v2_block),
        (r"backbone\.(?P<kind>extras?)\.(?P<level>\d)\.(?P<layer>\d(?:\.\d)?)\.(?P<part>\w+)", _extra),
        (rf"{_HEAD}(?:1\.)?(?P<part>\w+)", _head),
    ),
    box_order="tensorflow",
    yx_deltas=True,
    dropped=_SLOTS,
    preset="tensorflow",
)
