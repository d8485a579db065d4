"""Loads pretrained backbone weights: from torchvision by name, or from a file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssd.common.errors import DownloadError, unknown
from ssd.weight_files.load import few, load_file, state_dict_of
from ssd.weight_files.names import is_torchvision_name

_USED = re.compile(
    r"(VGG16|SqueezeNet1_1|ResNet\d+|MobileNet_V2|MobileNet_V3_Large|SSD300_VGG16|SSDLite320_.*)_Weights"
)  # models of this project
# Index of a VGG16 layer in torchvision's `features` -> its name in VGGExtractor. 31 and 33 are fc6 and fc7 of the
# reduced VGG16 that Caffe's SSD starts from (vgg16_reducedfc.pth), which uses bare indices as keys.
VGG_EXTRA = {24: "extra.0.1", 26: "extra.0.3", 28: "extra.0.5", 31: "extra.0.7.1", 33: "extra.0.7.3"}
# Layer of Caffe's VGG16 -> its index there.
VGG_CAFFE = {
    **dict(zip(("conv1_1", "conv1_2", "conv2_1", "conv2_2"), (0, 2, 5, 7), strict=True)),
    **{f"conv{block + 3}_{i + 1}": 10 + 7 * block + 2 * i for block in range(3) for i in range(3)},
    **{"fc6": 31, "fc7": 33},
}

# (blocks of layer3, with bottlenecks) -> depth of the ResNet
RESNET_DEPTHS = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}


def load_backbone(backbone: nn.Module, source: str | Path, kind: str, channels: str = "rgb") -> list[str]:
    """Copies weights into a backbone.

    Args:
        backbone: An extractor of this package; its weights are replaced in place and keep their dtype.
        source: a name such as "VGG16_Weights.IMAGENET1K_FEATURES" (torchvision downloads it), or a file with a state
            dict, of torchvision's layout with or without "features." and "module.", vgg16_reducedfc.pth, or Caffe's
            VGG16 (.caffemodel), reduced or not.
        kind: "vgg16", "resnet50" and its like, or any other for a backbone whose `features` are torchvision's own.
        channels: Order of the channels that the detector is given, "rgb" or "bgr". Caffe's weights are for BGR; they are
            reordered for RGB.

    Returns:
        Names of the backbone's weights that were loaded.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file holds no state dict, or keys are missing, left over or of another shape;
            the first of them are named.
        DownloadError: The download failed.
    """
    state = _renamed(_from_caffe(read_state_dict(source), channels), kind)
    own = backbone.state_dict()
    # layers that the detector adds are initialized at random; only some files have fc6 and fc7
    wanted = {
        k for k in own if k.startswith("features.") or (kind == "vgg16" and k.startswith(tuple(VGG_EXTRA.values())))
    }
    optional = {k for k in wanted if k.startswith("extra.0.7.") or k.endswith("num_batches_tracked")}
    missing = sorted(wanted - optional - state.keys())
    unexpected = sorted(state.keys() - wanted)
    shapes = [
        f"{k}: {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the model"
        for k in sorted(wanted & state.keys())
        if state[k].shape != own[k].shape
    ]
    shapes += [f"{k}: {v.dtype} instead of floating point" for k, v in state.items() if _is_integer(k, v)]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    if any(names for _, names in problems):
        lines = "".join(f"\n  {len(names)} {what}: {few(names)}" for what, names in problems if names)
        raise ValueError(f"{source} does not hold the weights of a {kind} backbone:{lines}")
    broken = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        raise ValueError(f"{source} holds NaN or inf in {few(sorted(broken))}")
    backbone.load_state_dict(state, strict=False)  # copies into the parameters, so float16 files become float32
    return sorted(state)


def model_of_backbone(source: str | Path) -> str:
    """Returns the name of the detector for backbone weights, from their name in torchvision or from their keys.

    Raises:
        FileNotFoundError: No such file.
        ValueError: As in `load_backbone`, or no detector has this backbone.
    """
    if is_torchvision_name(str(source)):
        kind = str(source).partition("_Weights.")[0].lower()
    else:
        kind = _kind(_from_caffe(read_state_dict(source), "bgr"))
    models = {"vgg16": "ssd300_vgg16", "mobilenet_v2": "ssdlite320_mobilenet_v2"}
    models |= {"squeezenet1_1": "ssdlite300_squeezenet1_1"}
    models |= {"mobilenet_v3_large": "ssdlite320_mobilenet_v3_large"}
    models |= {name: f"ssd300_{name}" for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")}
    if kind not in models:
        raise ValueError(f"weights_backbone {source}: no detector has this backbone; there are {', '.join(models)}")
    return models[kind]


def _kind(state: Mapping[str, Tensor]) -> str:
    """Returns the torchvision network that these weights are from; "" if unknown."""
    names = {key.removeprefix("backbone.").removeprefix("features.") for key in state}
    if "layer1.0.conv1.weight" in names:
        blocks = {name.split(".")[1] for name in names if name.startswith("layer3.")}
        depth = RESNET_DEPTHS.get((len(blocks), "layer1.0.conv3.weight" in names))
        return f"resnet{depth}" if depth else ""
    signs = {
        "3.squeeze.weight": "squeezenet1_1",
        "1.conv.0.0.weight": "mobilenet_v2",
        "1.block.0.0.weight": "mobilenet_v3_large",
        "28.weight": "vgg16",
    }
    return next((kind for sign, kind in signs.items() if sign in names), "")


def read_state_dict(source: str | Path) -> dict[str, Tensor]:
    """Reads a state dict from torchvision by name or from a file (weights_only), and removes a "module." prefix."""
    content: Any
    if is_torchvision_name(str(source)):
        content = download(str(source))
    else:
        try:
            content = load_file(source)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"weights_backbone: no file {str(source)!r}; pass a file, a name of torchvision such as "
                "VGG16_Weights.IMAGENET1K_FEATURES, or leave it out"
            ) from None
    for key in ("state_dict", "model"):  # where training checkpoints keep it
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    return {k.removeprefix("module."): v for k, v in state_dict_of(content, str(source)).items()}


def _from_caffe(state: dict[str, Tensor], channels: str) -> dict[str, Tensor]:
    """Returns the weights of Caffe's VGG16 as vgg16_reducedfc.pth has them, other weights as they are.

    The classifier, and the fully connected layers of the network that is not reduced, are dropped.
    """
    if "conv1_1.weight" not in state:
        return state
    if channels == "rgb":
        state = {**state, "conv1_1.weight": state["conv1_1.weight"].flip(1)}
    renamed = {}
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        is_classifier = layer.startswith("fc8") or (layer in ("fc6", "fc7") and _caffe_size(state, layer) > 1024)
        if not is_classifier:
            # files of Caffe's first format write a bias as [1, 1, 1, N]
            renamed[f"{VGG_CAFFE.get(layer, layer)}.{part}"] = value.flatten() if part == "bias" else value
    return renamed


def _caffe_size(state: Mapping[str, Tensor], layer: str) -> int:
    return state[f"{layer}.bias"].numel() if f"{layer}.bias" in state else 0


def _renamed(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Renames the keys of a file to those of the extractor; the classifier on top of a backbone is dropped."""
    renamed: dict[str, Tensor] = {}
    unused = ("classifier.", "fc.", "avgpool.", *(("layer4.",) if kind.startswith("resnet") else ()))
    for key, value in state.items():
        if key.startswith(unused):
            continue
        key = key.removeprefix("backbone.").removeprefix("features.")
        index, _, rest = key.partition(".")
        layer = VGG_EXTRA.get(int(index)) if kind == "vgg16" and index.isdigit() else None
        renamed[f"{layer}.{rest}" if layer else f"features.{key}"] = value
    return renamed


def _is_integer(key: str, value: Tensor) -> bool:
    return not value.is_floating_point() and not key.endswith("num_batches_tracked")


def torchvision_classes(name: str) -> tuple[str, ...] | None:
    """Returns the class names of torchvision's weights without the background; None for other names and files."""
    if not is_torchvision_name(name):
        return None
    from torchvision.models import get_weight

    return tuple(get_weight(name).meta["categories"][1:])


def download(name: str) -> Mapping[str, Tensor]:
    """Returns torchvision's weights by name, downloaded once.

    Raises:
        ValueError: No weights have that name (similar names are suggested).
        DownloadError: The download failed.
    """
    from torchvision import models  # takes a second, and files do not need it

    enum = name.partition(".")[0]
    known: dict[str, Any] = {
        weights.__name__: weights for weights in map(models.get_model_weights, models.list_models())
    }
    if enum not in known:
        raise ValueError(unknown("weights of torchvision", enum, filter(_USED.match, known)))
    try:
        weights = models.get_weight(name)
    except (KeyError, ValueError, AttributeError):
        members = {f"{enum}.{member.name}" for member in known[enum]}
        raise ValueError(unknown("weights of torchvision", name, members)) from None
    try:
        with warnings.catch_warnings():
            state: Mapping[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
            return state
    except OSError as error:
        raise DownloadError(
            f"torchvision could not download {name} from {weights.url}: {error}. Download that file elsewhere and pass "
            "its path instead"
        ) from error
