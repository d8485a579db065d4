"""Curves of a run: losses by step, precision over recall by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def plot_losses(
    train_rows: Sequence[Mapping[str, float]], eval_rows: Sequence[Mapping[str, float]], path: Path
) -> None:
    """Draw both losses by step and, on a second axis, AP50 by epoch."""
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    steps = [row["step"] for row in train_rows]
    for name, label in (("loc_loss", "boxes (smooth L1)"), ("cls_loss", "classes (cross entropy)")):
        axis.plot(steps, [row[name] for row in train_rows], label=label)
    axis.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    axis.legend(loc="upper left")
    if eval_rows:
        second = axis.twinx()
        second.plot([row["step"] for row in eval_rows], [row["AP50"] for row in eval_rows], "ko-", label="AP50")
        second.set(ylabel="AP50 on the evaluation split", ylim=(0, 1))
        second.legend(loc="upper right")
    _save(figure, path)


def plot_precision_recall(curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], path: Path) -> None:
    """Draw a curve for each class: name -> (recall, precision, AP)."""
    figure, axis = plt.subplots(figsize=(6, 5), layout="constrained")
    for name, (recall, precision, ap) in curves.items():
        axis.plot(recall, precision, label=f"{name} {ap:.3f}")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01), title="IoU 0.5")
    if len(curves) <= 25:
        axis.legend(loc="lower left", fontsize="small")
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
