"""SSDlite on any backbone of timm that has feature maps: model names "timm:NAME", such as "timm:mobilenetv4_conv_small"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ssd.models.detector import SSD, build_priors
from ssd.models.extractor import Extractor
from ssd.models.fpn import TopDown
from ssd.models.heads import SSDHead, conv_predictor, lite_extras, lite_predictor, normal_init
from ssd.presets import Preset
from ssd.weight_files.load import load_file

PREFIX = "timm:"
_HEADS = {"lite": lite_predictor, "conv": conv_predictor}


class TimmExtractor(Extractor):
    """Feature maps of a timm network from a stride on, and extra levels that halve the last one.

    Args:
        features: Made by `timm.create_model(..., features_only=True)`; has `feature_info`.
        min_stride: Stride of the finest level.
        extra_channels: Width of each extra level.
    """

    maps_empty_batches = False  # transformers divide by the number of images

    def __init__(self, features: Any, min_stride: int, extra_channels: Sequence[int]):
        super().__init__()
        strides, widths = features.feature_info.reduction(), features.feature_info.channels()
        self.first = next((i for i, stride in enumerate(strides) if stride >= min_stride), len(strides))
        if self.first == len(strides):
            raise ValueError(
                f"min_stride must be at most {max(strides)}, the stride of the last feature map, got {min_stride}"
            )
        self.features = features
        channels = list(widths[self.first :])
        self.extra = lite_extras(channels, extra_channels)
        self.out_channels = tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        levels = list(self.features(images))[self.first :]
        for block in self.extra:
            levels.append(block(levels[-1]))
        return levels


def ssd_timm(
    backbone: str,
    num_classes: int,
    image_size: int,
    preset: Preset,
    *,
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float] = (2.0, 3.0),
    weights_backbone: str | None = None,
    min_stride: int = 16,
    extra_channels: Sequence[int] = (512, 256, 256, 128),
    fpn_width: int | None = None,
    heads: str = "lite",
) -> SSD:
    """Builds SSD on a backbone of timm; its input is normalized as the backbone's pretrained weights expect.

    Args:
        backbone: Name of the network in timm.
        num_classes: Number of classes with the background.
        image_size: Side of the input.
        preset: Rules around the network.
        aspect_ratios: Besides 1; one list for all levels, or one for each.
        weights_backbone: "timm" for the default pretrained weights, which timm downloads; a file with a state dict of the
            network; or None for a random start.
        min_stride: Stride of the finest level.
        extra_channels: Width of each level after the last feature map.
        fpn_width: Projects all levels to this width and adds the coarse ones to the fine ones (FPN-lite); None disables it.
        heads: "lite" (depthwise separable) or "conv" (3x3 convolutions).
    """
    if heads not in _HEADS:
        raise ValueError(f"heads must be one of {', '.join(_HEADS)}, got {heads!r}")
    net = _create(backbone, weights_backbone)
    body: Extractor = TimmExtractor(net, min_stride, extra_channels)
    if fpn_width is not None:
        body = TopDown(body, fpn_width)
    about = net.pretrained_cfg
    preset = preset.replace(mean=tuple(about["mean"]), std=tuple(about["std"]), channels="rgb")
    try:
        priors = build_priors(body, image_size, preset, aspect_ratios, smallest=0.2 * min_stride / 16)
    except (RuntimeError, AssertionError) as error:  # such as a transformer of another input size
        raise ValueError(f"model {PREFIX}{backbone} cannot run at image_size {image_size}: {error}") from error
    head = SSDHead(body.out_channels, priors.boxes_per_cell, num_classes, _HEADS[heads], normal_init)
    return SSD(body, head, priors, preset, num_classes)


def _create(name: str, weights: str | None) -> Any:
    """Returns timm's network as an extractor of feature maps.

    Raises:
        ValueError: timm is not installed, has no such network or weights, or the network has no feature maps.
    """
    if not name or ":" in name:
        # such as hf-hub:OWNER/NAME, for which timm would download settings and weights that a checkpoint names
        raise ValueError(
            f"{PREFIX}NAME needs the name of a network in timm, such as {PREFIX}mobilenetv4_conv_small, without a place to "
            f"download it from; got {PREFIX + name!r}"
        )
    try:
        import timm
    except ImportError as error:
        raise ValueError(f'model {PREFIX}{name} needs timm (pip install "ssd_ops[timm]"): {error}') from error
    source: dict[str, Any] = {}
    if weights not in (None, "timm"):
        # timm would unpickle the file; this reads tensors only
        content = load_file(str(weights))
        source = {"pretrained_cfg_overlay": {"state_dict": content.get("state_dict", content)}}
    try:
        return timm.create_model(name, features_only=True, pretrained=weights is not None, **source)
    except (RuntimeError, AttributeError, AssertionError) as error:
        first = str(error).strip().partition("\n")[0][:300]
        raise ValueError(
            f"model {PREFIX}{name}: timm cannot make feature maps of it: {first or type(error).__name__}"
        ) from error
