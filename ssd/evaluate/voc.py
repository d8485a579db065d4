"""Average precision of the PASCAL VOC devkit, with an analysis of the errors.

Widths: boxes of this package have exclusive right and bottom edges, so their plain IoU equals the devkit's IoU with its
"+1" on the numbers in the file. `plus_one` is for boxes with inclusive edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssd.common.class_names import display_name
from ssd.data.faults import check_choice
from ssd.evaluate.errors import classify, gains
from ssd.evaluate.matching import ERRORS, METHODS, Matches, average_precision, match_classes
from ssd.evaluate.records import Records, nan_to_none

_NEAR = 0.1  # min IoU with an object of the class at which a false positive is a localization error, not background


@dataclass(frozen=True)
class ClassResult:
    """The result of one class at one IoU threshold.

    `tp`, `fp` and `missed` are counted at the score threshold `score`, by default the one with the best F1. `errors`
    counts those `fp` by kind of error; `gains` says how much AP would increase if all errors of one kind, at any score,
    were fixed.
    """

    name: str
    ap: float  # NaN for a class without objects
    recall: np.ndarray  # [D] after each detection by descending score
    precision: np.ndarray  # [D]
    scores: np.ndarray  # [D]
    objects: int  # without the ignored ones
    ignored: int
    detections: int
    score: float
    tp: int
    fp: int
    missed: int
    errors: dict[str, int]  # localization, duplicate, confusion, background
    gains: dict[str, float]  # the same and missed

    def limit(self) -> str:
        """Returns as text the kinds of error that cost AP, the largest first."""
        ranked = sorted(self.gains.items(), key=lambda item: -item[1])
        parts = [f"{kind} +{gain:.3f}" for kind, gain in ranked if gain >= 0.0005]
        if parts:
            return ", ".join(parts)
        return "nothing" if self.ap > 0.9995 else "no single kind"


@dataclass(frozen=True)
class VOCResult:
    """Results of all classes at one IoU threshold."""

    iou_threshold: float
    method: str
    images: int
    classes: tuple[ClassResult, ...]

    @property
    def mean_ap(self) -> float:
        """Mean AP of the classes that have objects; NaN if none has."""
        values = [c.ap for c in self.classes if not np.isnan(c.ap)]
        return float(np.mean(values)) if values else float("nan")

    def as_dict(self) -> dict[str, object]:
        """Returns the numbers without the curves, for JSON; NaN becomes None."""
        keys = ("objects", "ignored", "detections", "score", "tp", "fp", "missed", "errors", "gains")
        per_class = {c.name: {"ap": nan_to_none(c.ap), **{key: getattr(c, key) for key in keys}} for c in self.classes}
        return {
            "metric": f"VOC AP ({self.method}) at IoU {self.iou_threshold:g}",
            "mean_ap": nan_to_none(self.mean_ap),
            "images": self.images,
            "classes": per_class,
        }

    def __str__(self) -> str:
        width = max([5, *(len(display_name(c.name)) for c in self.classes)])
        lines = [f"{'class':<{width}}     AP  objects     TP     FP missed  score  AP gain if fixed"]
        for c in self.classes:
            ap = "     -" if np.isnan(c.ap) else f"{c.ap:6.3f}"
            counts = f"{c.objects:8d} {c.tp:6d} {c.fp:6d} {c.missed:6d} {c.score:6.2f}"
            lines.append(f"{display_name(c.name):<{width}} {ap} {counts}  {c.limit() if c.objects else ''}".rstrip())
        what = f"VOC {self.method}, IoU {self.iou_threshold:g}, {self.images} images"
        mean = "   n/a" if np.isnan(self.mean_ap) else f"{self.mean_ap:6.3f}"
        lines.append(f"{'mean':<{width}} {mean}  {what}")
        return "\n".join(lines)


def voc_ap(
    records: Records,
    classes: Sequence[str],
    *,
    iou_threshold: float = 0.5,
    method: str = "area",
    plus_one: bool = False,
    score: float | None = None,
) -> VOCResult:
    """Computes VOC average precision.

    Args:
        records: Detections and ground truths of all images.
        classes: Names without background; label i is `classes[i - 1]`.
        iou_threshold: Min IoU of a correct detection.
        method: `"area"` under the curve (since 2010) or `"11point"` (2007).
        plus_one: Use the devkit's "+1" widths, for boxes with inclusive right and bottom edges.
        score: Score threshold at which TP, FP and missed are counted; None: that of each class's best F1.

    Raises:
        DataError: Unknown method, or a label outside `1 .. len(classes)`.
    """
    return voc_ap_at(match_classes(records, len(classes), plus_one), records, classes, iou_threshold, method, score)


def voc_ap_at(
    matches: Sequence[Matches],
    records: Records,
    classes: Sequence[str],
    iou_threshold: float,
    method: str = "area",
    score: float | None = None,
) -> VOCResult:
    """Computes the result at one threshold; the same matches serve all thresholds."""
    check_choice("method", method, METHODS)
    results = [
        _class_result(name, of_class, iou_threshold, method, score)
        for name, of_class in zip(classes, matches, strict=True)
    ]
    return VOCResult(iou_threshold, method, len(records.image_ids), tuple(results))


def _class_result(name: str, matches: Matches, threshold: float, method: str, score: float | None) -> ClassResult:
    objects = int((~matches.gt_ignore).sum())
    kinds = classify(matches, threshold, _NEAR)
    counted = kinds != "ignored"
    correct, scores = kinds[counted] == "correct", matches.scores[counted]
    hits = np.cumsum(correct)
    ranks = np.arange(1, len(correct) + 1)
    if score is None:
        score = _best_f1(scores, hits, objects)
    above = scores >= score
    tp = int(correct[above].sum())
    wrong = kinds[counted][above & ~correct]
    return ClassResult(
        name=name,
        ap=average_precision(correct, objects, method),
        recall=hits / max(objects, 1),
        precision=hits / ranks,
        scores=scores,
        objects=objects,
        ignored=len(matches.gt_ignore) - objects,
        detections=len(matches.scores),
        score=score,
        tp=tp,
        fp=int(above.sum()) - tp,
        missed=objects - tp,
        errors={kind: int((wrong == kind).sum()) for kind in ERRORS},
        gains=gains(matches, kinds, objects, method),
    )


def _best_f1(scores: np.ndarray, hits: np.ndarray, objects: int) -> float:
    # The score threshold with the best F1; 0 without detections.
    if not len(scores):
        return 0.0
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + max(objects, 1))
    # A threshold passes all or none of equal scores, so only the last of them is a candidate.
    last = np.append(scores[1:] != scores[:-1], True)
    return float(scores[np.where(last, f1, -1.0).argmax()])
