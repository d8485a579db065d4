"""Curves of a run: losses by step, precision over recall by class. matplotlib is imported when the first is drawn."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssd.class_names import display_name
from ssd.inference.drawing import color_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LISTED = 20  # classes in a legend
_NUMBERED = 31  # rows of a confusion matrix whose counts are written
_POINTS = 1000  # of a curve; more are not seen, and take long


def plot_losses(
    train_rows: Sequence[Mapping[str, float]], eval_rows: Sequence[Mapping[str, float]], path: Path
) -> None:
    """Draw both losses by step and, on a second axis, AP50 by epoch."""
    steps = np.array([row["step"] for row in train_rows])
    points = _thin(len(steps))
    with figure_file(path, 8, 4.5) as figure:
        axis = figure.add_subplot()
        for name, label in (("loc_loss", "boxes (smooth L1)"), ("cls_loss", "classes (cross entropy)")):
            axis.plot(steps[points], np.array([row[name] for row in train_rows])[points], label=label)
        axis.set(xlabel="step", ylabel="training loss", ylim=(0, None))
        if eval_rows:
            second = axis.twinx()
            second.plot([row["step"] for row in eval_rows], [row["AP50"] for row in eval_rows], "ko-", label="AP50")
            second.set(ylabel="AP50 on the evaluation split", ylim=(0, 1))
        figure.legend(loc="outside upper center", ncols=3)


def plot_precision_recall(curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], path: Path) -> None:
    """Draw a curve for each class: name -> (recall, precision, AP); the legend lists the first by falling AP."""
    ranked = sorted(enumerate(curves.items(), start=1), key=lambda item: -item[1][1][2])
    with figure_file(path, 8, 5) as figure:
        axis = figure.add_subplot()
        for rank, (label, (name, (recall, precision, ap))) in enumerate(ranked):
            points = _thin(len(recall))
            # the number first: matplotlib leaves names that begin with "_" out of its legends
            text = f"{ap:.3f} {display_name(name, 24)}" if rank < _LISTED else None
            axis.plot(recall[points], precision[points], color=color_of(label), label=text)
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01), title="IoU 0.5")
        if curves:
            more = f"\n{len(curves) - _LISTED} more classes" if len(curves) > _LISTED else ""
            figure.legend(loc="outside right upper", fontsize="small", title=f"AP by class{more}")


def plot_confusion(matrix: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draws a confusion matrix, colored by the share of each row: true classes down, found classes across.

    Args:
        matrix: `[C + 1, C + 1]` counts; row 0 are detections without an object, column 0 missed objects.
        classes: Names without the background.
        path: File to write.
    """
    order = [*range(1, len(matrix)), 0]
    counts = matrix[np.ix_(order, order)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.3 * len(counts), 24)
    names = [display_name(name, 20) for name in classes]
    with figure_file(path, side + 1, side) as figure:
        axis = figure.add_subplot()
        picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(counts)), [*names, "missed"], rotation=90)
        axis.set_yticks(range(len(counts)), [*names, "no object"])
        axis.set(xlabel="found", ylabel="truth")
        for row, column in zip(*np.nonzero(counts), strict=True) if len(counts) <= _NUMBERED else ():
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize="small")
        figure.colorbar(picture, label="share of the row", shrink=0.6)


@contextlib.contextmanager
def figure_file(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in inches that is saved at the end; without pyplot, which keeps figures and chooses a window system."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # class names are texts, never formulas, and may have characters that the font lacks
    with warnings.catch_warnings(), rc_context({"text.parse_math": False}):
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, dpi=110)


def _thin(count: int) -> np.ndarray:
    """Indices of at most `_POINTS` of the points of a curve, its ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).astype(np.int64)) if count else np.arange(0)
