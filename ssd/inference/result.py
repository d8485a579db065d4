"""Detections of one image, with conversions to other formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ssd.data.loading.pil_images import to_pil
from ssd.inference.drawing import draw_boxes


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Detections of one image in descending order of score, on the CPU.

    Attributes:
        boxes: float32 `[N, 4]` xyxy in pixels of the image.
        labels: int64 `[N]`, 1 for the first class.
        scores: float32 `[N]`.
        classes: Names of all classes of the detector, without the background.
        image: uint8 `[3, H, W]`, with the EXIF orientation applied; None if it could not be read.
        file: File of the image or video, if it has one; for a stream, its URL as a string.
        error: Why the image could not be read, or None.
        frame: Number of the frame if it is one of a video, from 0.
        time: Time of the frame in seconds.
    """

    boxes: Tensor  # [N, 4] xyxy
    labels: Tensor  # [N]
    scores: Tensor  # [N]
    classes: tuple[str, ...]
    image: Tensor | None  # [3, H, W]
    file: Path | str | None = None
    error: str | None = None
    frame: int | None = None
    time: float | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        if self.error is not None:
            return f"Result({self.file}: {self.error})"
        counts = {name: self.names.count(name) for name in dict.fromkeys(self.names)}
        found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no detections"
        height, width = self.size
        where = f"{self.file}, " if self.file else ""
        where += "" if self.frame is None else f"frame {self.frame}, "
        return f"Result({where}{width} x {height}: {found})"

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.classes[label - 1] for label in self.labels.tolist()]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image; zeros if it could not be read."""
        return (0, 0) if self.image is None else (self.image.shape[1], self.image.shape[2])

    def plot(self, path: str | Path | None = None) -> Image.Image:
        """Draws the detections on a copy of the image.

        Args:
            path: File to save the drawing to.

        Returns:
            The drawing.

        Raises:
            ValueError: The image could not be read.
        """
        if self.image is None:
            raise ValueError(f"{self.file}: {self.error}")
        drawing = to_pil(draw_boxes(self.image, self.boxes, self.labels, self.classes, self.scores))
        if path is not None:
            drawing.save(path)
        return drawing

    def to_dict(self) -> dict[str, Any]:
        """Returns file, width, height, and a list of detections `{label, score, box}` with boxes in pixels.

        A frame of a video also has its number `frame` and its `time` in seconds.
        """
        height, width = self.size
        rows = zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True)
        detections = [{"label": n, "score": round(s, 4), "box": [round(x, 2) for x in box]} for n, s, box in rows]
        entry: dict[str, Any] = {} if self.file is None else {"file": str(self.file)}
        if self.frame is not None:
            entry |= {"frame": self.frame, "time": None if self.time is None else round(self.time, 4)}
        return {**entry, "width": width, "height": height, "detections": detections}

    def to_json(self) -> str:
        """Returns `to_dict()` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Returns entries of COCO's results format, boxes as x, y, width, height.

        Args:
            image_id: Id of the image in the data set.
            category_ids: Category id of each class in `classes`; None numbers them from 1.

        Raises:
            ValueError: There are more or fewer ids than classes.
        """
        ids = range(1, len(self.classes) + 1) if category_ids is None else category_ids
        if len(ids) != len(self.classes):
            raise ValueError(
                f"category_ids must have an id for each of the {len(self.classes)} classes, got {len(ids)}"
            )
        return [
            {
                "image_id": image_id,
                "category_id": ids[label - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for label, score, (x1, y1, x2, y2) in zip(
                self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True
            )
        ]

    def to_supervision(self) -> Any:
        """Returns `supervision.Detections`, whose class ids start at 0.

        Raises:
            ImportError: The package supervision is not installed.
        """
        import numpy as np
        import supervision

        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy() - 1,
            data={"class_name": np.array(self.names, dtype=object)},
        )
