"""Evaluation: VOC and COCO average precision, accumulated batch by batch, and an analysis of errors."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ssd.data.annotations import Annotations
from ssd.data.dataset import DetectionDataset
from ssd.data.faults import check_choice
from ssd.data.loading.batch import Batch
from ssd.evaluate.coco import COCOResult, coco_ap
from ssd.evaluate.matching import average_precision, match_classes
from ssd.evaluate.records import Records, unpack_detections
from ssd.evaluate.voc import ClassResult, VOCResult, voc_ap, voc_ap_at

__all__ = [
    "COCOResult",
    "ClassResult",
    "Evaluator",
    "Records",
    "VOCResult",
    "average_precision",
    "coco_ap",
    "match_classes",
    "unpack_detections",
    "voc_ap",
    "voc_ap_at",
]

METRICS = ("voc", "voc07", "coco")


class Evaluator:
    """Accumulates detections batch by batch and computes the metric at the end.

    Args:
        classes: Names without background; label i is `classes[i - 1]`.
        metric: `"voc"` (area under the curve), `"voc07"` (11 points) or `"coco"`.
        iou_threshold: Threshold of the VOC metrics.
        plus_one: Use the devkit's "+1" widths, only for boxes with inclusive right and bottom edges.
        ground_truth: For the metric `"coco"`, see `coco_ap`; if None, the targets passed to `update` are used.
        unused_labels: Labels without a class, see `coco_ap`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        metric: str = "voc",
        *,
        iou_threshold: float = 0.5,
        plus_one: bool = False,
        ground_truth: Annotations | None = None,
        unused_labels: Collection[int] = (),
    ) -> None:
        check_choice("metric", metric, METRICS)
        self.classes = tuple(classes)
        self.metric = metric
        self.iou_threshold = iou_threshold
        self.plus_one = plus_one
        self.ground_truth = ground_truth
        self.unused_labels = unused_labels
        self.records = Records()

    @classmethod
    def of(cls, dataset: DetectionDataset, metric: str = "voc", **options: Any) -> "Evaluator":
        """Returns the evaluator of a data set, with the annotations that its reader has kept as ground truth."""
        unused = getattr(dataset, "unused_labels", ())
        options = {"ground_truth": dataset.annotations, "unused_labels": unused, **options}
        return cls(dataset.classes, metric, **options)

    def update(self, detections: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Adds images: dicts of boxes `[D, 4]` (xyxy, pixels), scores and labels, and the data set's targets."""
        self.records.update(detections, targets)

    def update_batch(self, detections: Any, batch: Batch) -> None:
        """Adds a batch: padded, normalized detections (`ssd_ops.Detections`) and their batch."""
        self.records.update(unpack_detections(detections, batch.sizes), batch.targets())

    def summarize(self) -> VOCResult | COCOResult:
        """Returns the result over all images; the AP of a class without objects is NaN."""
        if self.metric == "coco":
            return coco_ap(self.records, self.classes, ground_truth=self.ground_truth, unused_labels=self.unused_labels)
        method = "11point" if self.metric == "voc07" else "area"
        return voc_ap(
            self.records, self.classes, iou_threshold=self.iou_threshold, method=method, plus_one=self.plus_one
        )
