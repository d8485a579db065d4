"""Plots of losses, precision-recall curves and confusion matrices. matplotlib is imported on first use."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssd.common.class_names import display_name
from ssd.inference.drawing import color_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_LEGEND = 20  # classes in a legend
_MAX_NUMBERED = 31  # rows of a confusion matrix with printed counts
_MAX_POINTS = 1000  # points of a curve; more are invisible and slow


def plot_losses(
    train_rows: Sequence[Mapping[str, float]], eval_rows: Sequence[Mapping[str, float]], path: Path
) -> None:
    """Plots both losses over steps and, on a second axis, AP50."""
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
    """Plots the precision-recall curve of each class; the legend lists the classes with the highest AP.

    Args:
        curves: Class name -> (recall, precision, AP).
        path: File to write.
    """
    ranked = sorted(enumerate(curves.items(), start=1), key=lambda item: -item[1][1][2])
    with figure_file(path, 8, 5) as figure:
        axis = figure.add_subplot()
        for rank, (label, (name, (recall, precision, ap))) in enumerate(ranked):
            points = _thin(len(recall))
            # The AP comes first because matplotlib omits labels that begin with "_" from legends.
            text = f"{ap:.3f} {display_name(name, 24)}" if rank < _MAX_LEGEND else None
            axis.plot(recall[points], precision[points], color=color_of(label), label=text)
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01), title="IoU 0.5")
        if curves:
            more = f"\n{len(curves) - _MAX_LEGEND} more classes" if len(curves) > _MAX_LEGEND else ""
            figure.legend(loc="outside right upper", fontsize="small", title=f"AP by class{more}")


def plot_confusion(matrix: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Plots a confusion matrix normalized by row: ground truth classes as rows, predicted classes as columns.

    Args:
        matrix: `[C + 1, C + 1]` counts; row 0 counts false positives on background, column 0 missed objects.
        classes: Names without the background.
        path: File to write.
    """
    order = [*range(1, len(matrix)), 0]
    counts = matrix[np.ix_(order, order)]
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.3 * len(counts), 24)
    names = [display_name(name, 20) for name in classes]
    with figure_file(path, side + 1, side) as figure:
        axis = figure.add_subplot()
        image = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(counts)), [*names, "missed"], rotation=90)
        axis.set_yticks(range(len(counts)), [*names, "no object"])
        axis.set(xlabel="prediction", ylabel="ground truth")
        for row, column in zip(*np.nonzero(counts), strict=True) if len(counts) <= _MAX_NUMBERED else ():
            color = "white" if fractions[row, column] > 0.5 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize="small")
        figure.colorbar(image, label="fraction of the row", shrink=0.6)


@contextlib.contextmanager
def figure_file(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yields a figure (size in inches) and saves it; avoids pyplot, which keeps figures and selects a GUI backend."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Class names must not be parsed as formulas, and may contain characters that the font lacks.
    with warnings.catch_warnings(), rc_context({"text.parse_math": False}):
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, dpi=110)


def _thin(count: int) -> np.ndarray:
    """Returns the indices of at most `_MAX_POINTS` points of a curve, including both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).astype(np.int64)) if count else np.arange(0)
