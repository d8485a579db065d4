"""The interface of backbones: images in, one feature map per level out."""

from __future__ import annotations

from torch import nn


class Extractor(nn.Module):
    """Maps [B, 3, S, S] to a list of features [B, C_k, H_k, W_k], fine to coarse."""

    out_channels: tuple[int, ...]  # C_k of each level
    maps_empty_batches = True  # whether it maps [0, 3, S, S]
