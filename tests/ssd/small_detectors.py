"""Small detectors with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ssd.models import SSD, build_model


def spread_detector(**options: Any) -> SSD:
    """Returns a detector whose scores differ from box to box."""
    torch.manual_seed(0)
    model = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2, **options)
    for layer in model.head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.3)
    return model.eval()
