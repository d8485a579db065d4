"""Detection with a trained model: a checkpoint of a run folder in, detections of image files out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ssd.checkpoints import build_from_weights
from ssd.checkpoints.reading import read_checkpoint
from ssd.data.faults import DataError
from ssd.data.images import read_image
from ssd.models import SSD
from ssd.transforms import build_transforms


class Detector(NamedTuple):
    """A trained model in evaluation mode and the names of its classes, without the background."""

    model: SSD
    classes: tuple[str, ...]


class Found(NamedTuple):
    """What was found in one image, or why it could not be read."""

    file: Path
    image: Tensor | None  # uint8 [3, H, W]; None if the file cannot be read
    boxes: Tensor  # [N, 4] float32 xyxy in pixels of the image
    labels: Tensor  # [N] int64, 1 for the first class
    scores: Tensor  # [N] float32, falling
    error: str | None = None


def load_detector(source: str | Path, device: str | torch.device = "cpu") -> Detector:
    """Loads a trained detector: the running mean of its weights where the run kept one.

    Args:
        source: a run folder (its best.pt, or else last.pt), or a checkpoint of this project or of any that
            ssd.load_weights knows; classes of the latter have numbers for names, since their files hold none.
        device: where the model shall be.
    Raises:
        DataError: there is no checkpoint, or it fits no model.
    """
    path = Path(source)
    if path.is_dir():
        path = next((path / name for name in ("best.pt", "last.pt") if (path / name).is_file()), path / "best.pt")
    if not path.is_file():
        raise DataError(f"{source}: there is no checkpoint {path}")
    try:
        checkpoint = read_checkpoint(path)
        model = build_from_weights(checkpoint)
    except ValueError as error:
        raise DataError(str(error)) from error
    classes = checkpoint.classes or tuple(str(label) for label in range(1, model.num_classes))
    return Detector(model.to(device).eval(), classes)


@torch.inference_mode()
def detect_files(
    detector: Detector, files: Sequence[Path], *, score_threshold: float = 0.4, batch_size: int = 8
) -> Iterator[Found]:
    """Detects objects in image files, batch by batch, in the files' order; a file that cannot be read is reported.

    Args:
        detector: see load_detector; its model's weights are brought into channels_last.
        files: images in any format and of any size that ssd.data.images.read_image knows.
        score_threshold: detections with a lower score are left out.
        batch_size: images that go through the network at once.
    """
    # the same up to rounding, and faster: python benchmarks/bench_detector.py --variants channels_last
    model = detector.model.to(memory_format=torch.channels_last)
    resize = build_transforms("none", model.image_size, train=False)
    for start in range(0, len(files), batch_size):
        chunk = [_read(file) for file in files[start : start + batch_size]]
        images = [image for image in chunk if isinstance(image, Tensor)]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        if images:
            nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
            nothing["ignore"] = torch.zeros(0, dtype=torch.bool)
            batch = torch.stack([resize(image, dict(nothing))[0] for image in images]).to(model.priors.device)
            detections = model.detect(*model.forward_raw(model.normalize(batch)))
            found = [
                (boxes[:count].cpu(), labels[:count].cpu(), scores[:count].cpu())
                for boxes, scores, labels, count in zip(*detections[:3], detections.counts.tolist(), strict=True)
            ]
        results = iter(found)
        for file, image in zip(files[start : start + batch_size], chunk, strict=True):
            if isinstance(image, str):
                yield Found(file, None, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), image)
                continue
            boxes, labels, scores = next(results)
            sure = scores >= score_threshold
            height, width = image.shape[1:]
            scale = torch.tensor([width, height, width, height])
            yield Found(file, image, boxes[sure].float() * scale, labels[sure], scores[sure].float())


def _read(file: Path) -> Tensor | str:
    try:
        return read_image(file)
    except DataError as error:
        return str(error)
