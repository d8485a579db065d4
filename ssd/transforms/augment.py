"""The transforms themselves: augmentation with a resize for training, a plain resize for evaluation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import resize_image

from ssd.data.dataset import Target
from ssd.transforms.geometry import (
    CropRule,
    Placement,
    View,
    crop_view,
    jitter_view,
    map_boxes,
    place,
    render,
    zoom_view,
)
from ssd.transforms.photometric import Distortion, PhotometricRule, distort, draw_distortion


@dataclass(frozen=True)
class Augmentation:
    """What a training transform does, in this order.

    Args:
        shortest: sides of which one is drawn for each image; the image is first resized so that its shorter side has
            it and the longer one at most `longest`, proportions kept. Empty for none.
        longest: see `shortest`.
        photometric: color distortion; None for none.
        jitter: least and greatest scale of the image within a square window as wide as its longer side: below 1 it
            stands in the upper left corner with `fill` around it, above 1 a window of it is seen. Proportions are kept.
            None for none, and then the whole image is warped to the square.
        zoom: greatest zoom-out, as a factor of the sides, in half of the images; 1 for none.
        crop: the IoU crop; None for none.
        hflip: probability of a left-right flip.
        extra: for pictures without an up direction: ``"vflip"`` adds up-down flips, ``"d4"`` also quarter turns (all
            eight positions equally often). As the resize warps to a square, a quarter turn swaps the warp's two
            directions.
        cut: objects whose center the crop leaves outside are, as far as still visible, background (``"drop"``, as in
            every SSD), neither object nor background (``"ignore"``), or objects all the same (``"keep"``).
        min_size: objects with a smaller width or height, in output pixels, are left out.
        fill: color around a zoomed-out image.
        antialias: resize with a low-pass filter when shrinking, as PIL does. It costs a quarter more; a network trained
            with it must be evaluated with it, as `ssd/train.py` does; `ssd/predict.py` always resizes with it.
    """

    shortest: tuple[int, ...] = ()
    longest: int = 1333
    photometric: PhotometricRule | None = None
    jitter: tuple[float, float] | None = None
    zoom: float = 1.0
    crop: CropRule | None = None
    hflip: float = 0.5
    extra: str | None = None
    cut: str = "drop"
    min_size: float = 1.0
    fill: tuple[int, int, int] = (123, 117, 104)
    antialias: bool = True


@dataclass(frozen=True)
class Resize:
    """Warps an image to ``side x side`` and its boxes with it; nothing is dropped."""

    side: int
    antialias: bool = True

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        height, width = image.shape[1:]
        whole = place(View(0, 0, width, height), height, width, self.side)
        resized = render(image, whole, antialias=self.antialias).contiguous()
        scale = torch.tensor(whole.scale * 2)
        return resized, {**target, "boxes": target["boxes"] * scale}


class Turn(NamedTuple):
    """Flips of the output, in this order."""

    across: bool  # left and right change places
    down: bool  # up and down do
    swapped: bool  # rows and columns do


class Plan(NamedTuple):
    """What is done with the pixels of one image, in this order."""

    placement: Placement
    distortion: Distortion | None
    turn: Turn


@dataclass(frozen=True)
class Augment:
    """Augments an image and its target and warps them to ``side x side``; all its chance comes from torch's CPU
    generator."""

    side: int
    rule: Augmentation = field(default_factory=Augmentation)

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        image, target, plan = self.plan(image, target)
        patch = render(image, plan.placement, antialias=self.rule.antialias)
        if plan.distortion is not None:
            patch = distort(patch, image, plan.distortion)
        return _turned(self._paste(patch, plan.placement), plan.turn).contiguous(), target

    def plan(self, image: Tensor, target: Target) -> tuple[Tensor, Target, Plan]:
        """Draws all that is left to chance.

        Returns:
            The image, resized already where `Augmentation.shortest` says so; the target as it comes out in the end; what
            remains to be done with the pixels.
        """
        if self.rule.shortest:
            image, target = self._shorten(image, target)
        height, width = image.shape[1:]
        placement = place(self._view(target, height, width), height, width, self.side)
        distortion = None if self.rule.photometric is None else draw_distortion(self.rule.photometric)
        turn = self._draw_turn()
        kept, boxes, cut = self._objects(target, placement)
        ignore = target["ignore"][kept] | cut
        target = {**target, "boxes": self._turn_boxes(boxes, turn), "labels": target["labels"][kept], "ignore": ignore}
        return image, target, Plan(placement, distortion, turn)

    def _shorten(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        height, width = image.shape[1:]
        side = self.rule.shortest[int(torch.randint(len(self.rule.shortest), ()))]
        ratio = min(side / min(height, width), self.rule.longest / max(height, width))
        high, wide = max(1, int(height * ratio)), max(1, int(width * ratio))
        scale = torch.tensor([wide / width, high / height] * 2)
        resized = resize_image(image, [high, wide], antialias=self.rule.antialias)
        return resized, {**target, "boxes": target["boxes"] * scale}

    def _view(self, target: Target, height: int, width: int) -> View:
        view = View(0, 0, width, height)
        if self.rule.jitter is not None:
            view = jitter_view(view, *self.rule.jitter)
        if self.rule.zoom > 1.0 and float(torch.rand(())) < 0.5:
            view = zoom_view(view, self.rule.zoom)
        if self.rule.crop is not None:
            cropped = crop_view(view, target["boxes"][~target["ignore"]].double().numpy(), self.rule.crop)
            # An image without objects may be cropped to the fill beside it; then it is shown whole.
            if cropped.x1 < width and cropped.y1 < height and cropped.x2 > 0 and cropped.y2 > 0:
                view = cropped
        return view

    def _paste(self, patch: Tensor, placement: Placement) -> Tensor:
        x1, y1, x2, y2 = placement.destination
        if (x1, y1, x2, y2) == (0, 0, self.side, self.side):
            return patch
        canvas = torch.tensor(self.rule.fill, dtype=torch.uint8)[:, None, None].repeat(1, self.side, self.side)
        canvas[:, y1:y2, x1:x2] = patch
        return canvas

    def _objects(self, target: Target, placement: Placement) -> tuple[Tensor, Tensor, Tensor]:
        # (indices kept [K], boxes in output pixels [K, 4], which of them are objects cut off at the center [K])
        # In numpy: on a handful of boxes each of torch's calls would cost more than all of this.
        boxes, ignored = target["boxes"].numpy(), target["ignore"].numpy()
        x1, y1, x2, y2 = placement.source
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        inside = (x1 < x) & (x < x2) & (y1 < y) & (y < y2)
        mapped = map_boxes(boxes, placement)
        least = self.rule.min_size
        visible = (mapped[:, 2] - mapped[:, 0] >= least) & (mapped[:, 3] - mapped[:, 1] >= least)
        # What is ignored stays ignored wherever any of it is seen.
        kept = visible & (inside | ignored) if self.rule.cut == "drop" else visible
        index = kept.nonzero()[0]
        cut = ~inside[index] & (self.rule.cut != "keep")
        return torch.from_numpy(index), torch.from_numpy(mapped[index]), torch.from_numpy(cut)

    def _draw_turn(self) -> Turn:
        across, down, turn = torch.rand(3).tolist()
        extra = self.rule.extra
        return Turn(across < self.rule.hflip, extra is not None and down < 0.5, extra == "d4" and turn < 0.5)

    def _turn_boxes(self, boxes: Tensor, turn: Turn) -> Tensor:
        if turn.across:
            boxes = torch.stack([self.side - boxes[:, 2], boxes[:, 1], self.side - boxes[:, 0], boxes[:, 3]], dim=1)
        if turn.down:
            boxes = torch.stack([boxes[:, 0], self.side - boxes[:, 3], boxes[:, 2], self.side - boxes[:, 1]], dim=1)
        return boxes[:, [1, 0, 3, 2]] if turn.swapped else boxes


def _turned(image: Tensor, turn: Turn) -> Tensor:
    image = image.flip(-1) if turn.across else image
    image = image.flip(-2) if turn.down else image
    return image.transpose(-1, -2) if turn.swapped else image


@dataclass(frozen=True)
class FromV2:
    """Makes a transform of this package out of any ``torchvision.transforms.v2`` transform.

    Image, boxes, labels and ignore flags go in as one sample; end the v2 transform with a `Resize` to the square
    and, after a crop, ``SanitizeBoundingBoxes(labels_getter=lambda sample: (sample["labels"], sample["ignore"]))``.

    Args:
        transform: takes and returns a dict with image (`tv_tensors.Image`), boxes (`tv_tensors.BoundingBoxes`),
            labels, ignore.
    """

    transform: Callable[[dict[str, object]], dict[str, object]]

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=tuple(image.shape[1:]))
        sample = self.transform(
            {"image": tv_tensors.Image(image), "boxes": boxes, "labels": target["labels"], "ignore": target["ignore"]}
        )
        moved = {key: torch.as_tensor(sample[key]).as_subclass(Tensor) for key in ("boxes", "labels", "ignore")}
        out = torch.as_tensor(sample["image"]).as_subclass(Tensor)
        return out.contiguous(), {**target, **moved, "boxes": moved["boxes"].float()}
