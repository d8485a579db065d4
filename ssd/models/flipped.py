"""Test-time augmentation: a detector that averages its outputs for an image and for its mirror image."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ssd.models.detector import SSD
from ssd.models.heads import Outputs


class FlipAveragedSSD(SSD):
    """A detector with the weights of another one that averages its outputs over a horizontal flip (`flip_averaged`)."""

    mirrored: Tensor  # [P] int64, index of the mirror image of each prior
    mirror_sign: Tensor  # [4], of the deltas

    def forward_levels(self, images: Tensor) -> tuple[Outputs, Outputs]:
        """Returns the same as `forward_raw`: priors are mirrored in rows, not in feature maps."""
        return self.forward_raw(images)

    def forward_raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps normalized images [B, 3, S, S] to the averaged loc [B, P, 4] and logits [B, P, C]."""
        loc, logits = super().forward_raw(images)
        flipped_loc, flipped_logits = super().forward_raw(images.flip(-1))
        flipped_loc = flipped_loc[:, self.mirrored] * self.mirror_sign.to(loc.dtype)
        return (loc + flipped_loc) / 2, (logits + flipped_logits[:, self.mirrored]) / 2


def flip_averaged(model: SSD) -> SSD:
    """Returns a detector that shares the weights of a model and averages its outputs over a horizontal flip.

    It takes twice the time. NMS runs once, because both passes predict for the same priors.

    Raises:
        ValueError: The priors of the model are not symmetric, as with steps that do not fit the input size.
    """
    index, first = [], 0
    for (rows, columns), boxes in zip(model.prior_config.feature_sizes, model.prior_config.boxes_per_cell, strict=True):
        count = rows * columns * boxes
        index.append(torch.arange(first, first + count).view(rows, columns, boxes).flip(1).flatten())
        first += count
    mirrored = torch.cat(index)
    priors = model.priors.cpu()
    expected = torch.stack([1 - priors[:, 2], priors[:, 1], 1 - priors[:, 0], priors[:, 3]], dim=1)
    if not torch.allclose(priors[mirrored], expected, atol=1e-3):
        raise ValueError(
            "the priors of this model are not symmetric, so its outputs cannot be averaged over a flip (--tta); they "
            f"are symmetric if each step times the cells of its level is the input size, got steps {model.preset.steps!r}"
        )
    averaged = copy.copy(model)
    averaged.__class__ = FlipAveragedSSD
    averaged._buffers = dict(model._buffers)
    averaged.register_buffer("mirrored", mirrored.to(model.priors.device), persistent=False)
    sign = torch.tensor([-1.0, 1.0, 1.0, 1.0], device=model.priors.device)
    averaged.register_buffer("mirror_sign", sign, persistent=False)
    return averaged
