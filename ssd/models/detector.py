"""The SSD detector: a backbone, two heads, priors, and the rules of a preset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import ssd_ops
from ssd.models.extractor import Extractor
from ssd.models.feature_sizes import feature_sizes
from ssd.models.heads import Outputs, SSDHead, rows_of
from ssd.models.loss import MultiBoxLoss
from ssd.models.post_process import detections
from ssd.models.torchvision_io import pack_targets, resize_images, split_detections
from ssd.presets import Preset
from ssd.priors import PriorConfig, make_priors
from ssd.priors.sizes import ratios_of_levels, resolve_sizes, resolve_steps

if TYPE_CHECKING:
    from ssd.data import PackedImages
    from ssd.data.loading.whole_images import WholeImages


class BatchSizeError(ValueError):
    """BatchNorm got a single value per channel in training."""


class SSD(nn.Module):
    """Single-shot detector with torchvision's call convention; its steps are methods, for use in a training loop.

    Args:
        backbone: Maps [B, 3, S, S] to a list of features, fine to coarse; has `out_channels`.
        head: Maps the features to (loc [B, P, 4], logits [B, P, C]) in the order of the priors; usually SSDHead.
        prior_config: Configuration of the priors; its image_size is the side S of the network's input.
        preset: Rules of matching, loss, post-process and input.
        num_classes: C, with the background as class 0.
    """

    priors: Tensor  # [P, 4] float32 xyxy, normalized to the image
    mean: Tensor  # [1, 3, 1, 1] float32, in the preset's channel order
    std: Tensor

    def __init__(
        self, backbone: Extractor, head: nn.Module, prior_config: PriorConfig, preset: Preset, num_classes: int
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.prior_config = prior_config
        self.preset = preset
        self.num_classes = num_classes
        self.image_size = prior_config.image_size
        self.criterion = MultiBoxLoss(preset)
        # the arguments of build_model that build the same network again, set by build_model
        self.build_args: dict[str, Any] = {}
        for name, value in self._constants().items():
            self.register_buffer(name, value, persistent=False)

    def normalize(self, images: Tensor | PackedImages | WholeImages) -> Tensor:
        """Converts RGB images [B, 3, H, W], uint8 or float in 0..1, to the network's input in the dtype of its weights.

        Packed images are rendered and normalized in one launch.
        """
        dtype = next(self.parameters()).dtype
        if not isinstance(images, Tensor):
            mean, std = ([255 * value for value in values] for values in (self.preset.mean, self.preset.std))
            return images.render(mean, std, bgr=self.preset.channels == "bgr").to(dtype)
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).div_(255)
        elif not images.is_floating_point():
            raise TypeError(f"images must be uint8 or floating point in 0..1, got {images.dtype}")
        if self.preset.channels == "bgr":
            images = images.flip(-3)
        return (images - self.mean).div_(self.std).to(dtype)

    def forward_raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps normalized images [B, 3, S, S] to loc [B, P, 4] and logits [B, P, C], in the order of the priors."""
        loc, logits = self._outputs(images, as_levels=False)
        return rows_of(loc, 4), rows_of(logits, self.num_classes)

    def forward_levels(self, images: Tensor) -> tuple[Outputs, Outputs]:
        """Maps normalized images to loc [B, A * 4, H, W] and logits [B, A * C, H, W] of each level.

        `detect` and the criterion take both these and those of `forward_raw`, with equal results; these save copies. A
        head other than SSDHead returns what `forward_raw` does.
        """
        return self._outputs(images, as_levels=isinstance(self.head, SSDHead))

    def _outputs(self, images: Tensor, as_levels: bool) -> tuple[Outputs, Outputs]:
        options = {"as_levels": True} if as_levels else {}
        try:
            outputs: tuple[Outputs, Outputs] = self.head(self.backbone(images), **options)
            return outputs
        except ValueError as error:
            if not self.training or len(images) > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise BatchSizeError(
                "BatchNorm cannot be trained with a batch of one image if a feature level has one cell; use batches of at "
                "least 2 (--batch-size 2 or more, with --accumulate N at least 2 * N; at least 2 training images)"
            ) from error

    def detect(self, loc: Outputs, logits: Outputs, rules: Preset | None = None) -> ssd_ops.Detections:
        """Turns loc [B, P, 4] and logits [B, P, C] into padded detections (score threshold, NMS) with normalized boxes.

        Both may be lists with the outputs of each level, see `forward_levels`. `rules` replaces the post-processing of the
        model's preset.
        """
        return detections(loc, logits, self.priors, rules or self.preset, self.num_classes)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Returns losses in training and detections in evaluation, as torchvision's detectors do.

        Each image is warped to S x S (bilinear).

        Args:
            images: [3, H, W] each, RGB float in 0..1, of any sizes.
            targets: In training, for each image a dict of boxes [G, 4] xyxy in its pixels, labels [G] in 1..C-1 and, if
                needed, ignore [G] bool (difficult or crowd). On the CPU they are validated without synchronization.

        Returns:
            In training {"bbox_regression": scalar, "classification": scalar}; otherwise for each image a dict of boxes
            [N, 4] xyxy in its pixels, scores [N], labels [N], by descending score.

        Raises:
            ValueError: Missing targets, wrong number or shape of targets, a label out of range or a box without area;
                the message names the image and the box.
        """
        if self.training and targets is None:
            raise ValueError("targets must be given in training, got None; call model.eval() for detections")
        if len(images) == 0:
            if self.training:
                raise ValueError("images must hold at least one image in training, got an empty list")
            return []
        batch, sizes = resize_images(images, self.image_size)
        if not self.training:
            return split_detections(self.detect(*self.forward_levels(self.normalize(batch))), sizes)
        assert targets is not None
        packed = pack_targets(targets, sizes, self.num_classes, batch.device)
        loc, logits = self.forward_levels(self.normalize(batch))
        losses = self.criterion(loc, logits, self.priors, *packed)
        return {"bbox_regression": losses["loc"], "classification": losses["cls"]}

    def _constants(self) -> dict[str, Tensor]:
        shape = (1, 3, 1, 1)
        return {
            "priors": make_priors(self.prior_config),
            "mean": torch.tensor(self.preset.mean, dtype=torch.float32).view(shape),
            "std": torch.tensor(self.preset.std, dtype=torch.float32).view(shape),
        }

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> SSD:
        # .half() and .bfloat16() would round the priors (bfloat16 keeps two digits), and to_empty() would lose them, so
        # they are recreated from the configuration on the new device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.priors.device.type != "meta":
            for name, value in self._constants().items():
                setattr(self, name, value.to(getattr(self, name).device))
        return self


def build_priors(
    backbone: Extractor,
    image_size: int,
    preset: Preset,
    aspect_ratios: Sequence[Sequence[float]] | Sequence[float],
    smallest: float = 0.2,
) -> PriorConfig:
    """Returns the preset's priors for the feature maps of a backbone at an input of image_size."""
    grids = feature_sizes(backbone, image_size)
    return PriorConfig.from_sizes(
        image_size,
        grids,
        resolve_sizes(preset.prior_sizes, len(grids), image_size, smallest),
        ratios_of_levels(aspect_ratios, len(grids)),
        steps=resolve_steps(preset.steps, image_size, grids),
        clip=preset.clip,
        order=preset.prior_order,
    )
