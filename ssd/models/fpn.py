"""A light feature pyramid: adds the coarse levels to the fine ones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ssd.models.extractor import Extractor
from ssd.models.heads import LITE_NORM, normal_init
from ssd.models.layers import Conv2dNormActivation


class TopDown(Extractor):
    """Wraps an extractor: projects every level to `width` channels and adds all coarser levels to it (FPN-lite).

    Args:
        body: Maps images to features, fine to coarse; has `out_channels`.
        width: Output channels of every level.
    """

    def __init__(self, body: Extractor, width: int):
        super().__init__()
        if width < 1:
            raise ValueError(f"fpn_width must be at least 1, got {width}")
        self.body = body
        self.maps_empty_batches = body.maps_empty_batches
        self.lateral = nn.ModuleList(
            Conv2dNormActivation(c, width, kernel_size=1, norm_layer=LITE_NORM, activation_layer=None)
            for c in body.out_channels
        )
        self.smooth = nn.ModuleList(  # one for each level but the coarsest
            nn.Sequential(
                Conv2dNormActivation(width, width, 3, groups=width, norm_layer=LITE_NORM, activation_layer=nn.ReLU6),
                Conv2dNormActivation(width, width, 1, norm_layer=LITE_NORM, activation_layer=nn.ReLU6),
            )
            for _ in body.out_channels[1:]
        )
        normal_init(self.lateral)
        normal_init(self.smooth)
        self.out_channels = (width,) * len(body.out_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, 3, S, S] to the features of all levels, fine to coarse."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, self.body(images), strict=True)]
        for fine in range(len(levels) - 2, -1, -1):
            size = levels[fine].shape[-2:]
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], size=size, mode="nearest")
        return [*(smooth(x) for smooth, x in zip(self.smooth, levels[:-1], strict=True)), levels[-1]]
