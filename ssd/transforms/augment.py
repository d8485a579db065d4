"""Augmentation with a resize for training; a plain resize for evaluation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ssd.data.dataset import Target
from ssd.transforms.geometry import (
    CropRule,
    Placement,
    View,
    crop_view,
    jitter_view,
    make_placement,
    render,
    zoom_view,
)
from ssd.transforms.mixing import Decoded, mix
from ssd.transforms.objects import place_objects
from ssd.transforms.photometric import Distortion, PhotometricRule, distort, draw_distortion
from ssd.transforms.resize import resize_image


@dataclass(frozen=True)
class Augmentation:
    """The steps of a training transform, in this order.

    `ssd/train.py` disables `mosaic` and `copy_paste` in the last quarter of the epochs.

    Args:
        mosaic: Probability of a mosaic: four images side by side in the size of the first one, in tiles that meet at a
            random point in its middle half, each at 0.5 to 1 times its scale. `cut` applies to their edges, too.
        copy_paste: Probability that objects of another image, each with a chance of one half, are pasted with all pixels
            of their boxes, where they overlap no object.
        shortest: Candidate lengths of the shorter side. One is drawn for each image, which is first resized to it with
            its aspect ratio kept and the longer side limited to `longest`. Empty disables the step.
        longest: Maximum length of the longer side, see `shortest`.
        photometric: Photometric distortion; None disables it.
        jitter: Min and max scale of the image relative to a square as wide as its longer side: below 1 the image is
            placed in the upper left corner and padded with `fill`, above 1 a random window of it is shown. The aspect
            ratio is kept. None disables it, and the whole image is warped to the square.
        zoom: Max zoom-out, as a factor of the sides, applied to half of the images; 1 disables it.
        crop: The IoU crop; None disables it.
        hflip: Probability of a horizontal flip.
        extra: For images without an up direction: `"vflip"` adds vertical flips, `"d4"` also rotations by 90 degrees
            (all eight orientations equally often). As the resize warps to a square, a rotation swaps the two
            directions of the warp.
        cut: Objects whose center is outside the crop, where still visible, become background (`"drop"`, as in
            every SSD), ignored (`"ignore"`), or remain objects (`"keep"`).
        min_size: Objects with a smaller width or height, in output pixels, are dropped.
        fill: Color around a zoomed-out image.
        antialias: Resizes with a low-pass filter when shrinking, as PIL does. It takes a quarter longer; a network trained
            with it must be evaluated with it, as `ssd/train.py` does; `ssd predict` always resizes with it.
    """

    mosaic: float = 0.0
    copy_paste: float = 0.0
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
    """Warps an image and its boxes to `side x side`; nothing is dropped."""

    side: int
    antialias: bool = True

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Returns the image, uint8 `[3, side, side]`, and its target."""
        height, width = image.shape[1:]
        whole = make_placement(View(0, 0, width, height), height, width, self.side)
        resized = render(image, whole, antialias=self.antialias).contiguous()
        scale = torch.tensor(whole.scale * 2)
        return resized, {**target, "boxes": target["boxes"] * scale}


class Orientation(NamedTuple):
    """Flips of the output, in this order."""

    hflip: bool
    vflip: bool
    transpose: bool  # swaps rows and columns


class PixelSteps(NamedTuple):
    """What is done to the pixels of one image, in this order."""

    placement: Placement
    distortion: Distortion | None
    orientation: Orientation


@dataclass(frozen=True)
class Augment:
    """Augments an image and its target and warps them to `side x side`.

    All random numbers come from torch's CPU generator.
    """

    side: int
    rule: Augmentation = field(default_factory=Augmentation)

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Returns the augmented image, uint8 `[3, side, side]`, and its target."""
        image, target, steps = self.draw(image, target)
        patch = render(image, steps.placement, antialias=self.rule.antialias)
        if steps.distortion is not None:
            patch = distort(patch, image, steps.distortion)
        return _oriented(self._paste(patch, steps.placement), steps.orientation).contiguous(), target

    def mix(self, image: Tensor, target: Target, draw: Callable[[], Decoded | None]) -> tuple[Tensor, Target]:
        """Returns the sample mixed with random samples of the data set, see `Augmentation.mosaic`; the loader calls it."""
        rule = self.rule
        return mix(
            (image, target),
            draw,
            mosaic=rule.mosaic,
            copy_paste=rule.copy_paste,
            cut=rule.cut,
            antialias=rule.antialias,
        )

    def draw(self, image: Tensor, target: Target) -> tuple[Tensor, Target, PixelSteps]:
        """Draws all random choices and applies them to the target.

        Returns:
            The image, already resized if `Augmentation.shortest` is set; the final target; the steps that remain to be
            applied to the pixels.
        """
        if self.rule.shortest:
            image, target = self._shorten(image, target)
        target, steps = self.draw_for((image.shape[1], image.shape[2]), target)
        return image, target, steps

    def draw_for(self, size: tuple[int, int], target: Target) -> tuple[Target, PixelSteps]:
        """Draws all random choices but `shortest` for an image of a height and width, and applies them to the target."""
        height, width = size
        placement = make_placement(self._view(target, height, width), height, width, self.side)
        distortion = None if self.rule.photometric is None else draw_distortion(self.rule.photometric)
        orientation = self._draw_orientation()
        target = place_objects(target, placement, cut=self.rule.cut, min_size=self.rule.min_size)
        target["boxes"] = self._orient_boxes(target["boxes"], orientation)
        return target, PixelSteps(placement, distortion, orientation)

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
            # Without objects the crop may show nothing but the fill beside the image; then it is not applied.
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

    def _draw_orientation(self) -> Orientation:
        u = torch.rand(3).tolist()
        extra = self.rule.extra
        return Orientation(u[0] < self.rule.hflip, extra is not None and u[1] < 0.5, extra == "d4" and u[2] < 0.5)

    def _orient_boxes(self, boxes: Tensor, orientation: Orientation) -> Tensor:
        if orientation.hflip:
            boxes = torch.stack([self.side - boxes[:, 2], boxes[:, 1], self.side - boxes[:, 0], boxes[:, 3]], dim=1)
        if orientation.vflip:
            boxes = torch.stack([boxes[:, 0], self.side - boxes[:, 3], boxes[:, 2], self.side - boxes[:, 1]], dim=1)
        return boxes[:, [1, 0, 3, 2]] if orientation.transpose else boxes


def _oriented(image: Tensor, orientation: Orientation) -> Tensor:
    image = image.flip(-1) if orientation.hflip else image
    image = image.flip(-2) if orientation.vflip else image
    return image.transpose(-1, -2) if orientation.transpose else image


@dataclass(frozen=True)
class FromV2:
    """Wraps any `torchvision.transforms.v2` transform as a transform of this package.

    Image, boxes, labels and ignore flags are passed as one sample; end the v2 transform with a `Resize` to the square
    and, after a crop, `SanitizeBoundingBoxes(labels_getter=lambda sample: (sample["labels"], sample["ignore"]))`.

    Args:
        transform: Takes and returns a dict with image (`tv_tensors.Image`), boxes (`tv_tensors.BoundingBoxes`),
            labels, ignore.
    """

    transform: Callable[[dict[str, object]], dict[str, object]]

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Returns the transformed image and target."""
        from torchvision import tv_tensors  # takes a second, and no other transform needs it

        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=tuple(image.shape[1:]))
        sample = self.transform(
            {"image": tv_tensors.Image(image), "boxes": boxes, "labels": target["labels"], "ignore": target["ignore"]}
        )
        moved = {key: torch.as_tensor(sample[key]).as_subclass(Tensor) for key in ("boxes", "labels", "ignore")}
        out = torch.as_tensor(sample["image"]).as_subclass(Tensor)
        return out.contiguous(), {**target, **moved, "boxes": moved["boxes"].float()}
