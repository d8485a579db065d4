"""Figures of what each op does, drawn with the op itself: `python -m docs.draw`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

import ssd_ops

FOLDER = Path(__file__).resolve().parent / "ops" / "figures"
GT, PRIOR, KEPT, DROPPED = "#3cb44b", "#4363d8", "#e6194b", "#9a9a9a"


def add_box(axes: Axes, box: Tensor | Sequence[float], color: str, text: str = "", width: float = 2.0) -> None:
    """Draws a box [4] xyxy with a word at its upper left corner."""
    x1, y1, x2, y2 = (float(value) for value in box)
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width))
    if text:
        axes.text(x1, y1 - 0.01, text, color=color, fontsize=8, va="bottom")


def panels(*titles: str) -> tuple[plt.Figure, list[Axes]]:
    """Returns a row of unit squares, y downward as in images."""
    figure, axes = plt.subplots(1, len(titles), figsize=(3.4 * len(titles), 3.6), squeeze=False)
    for one, title in zip(axes[0], titles, strict=True):
        one.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        one.set_title(title, fontsize=10)
    return figure, list(axes[0])


def box_iou() -> plt.Figure:
    """IoU of one box with three others, in all four metrics."""
    box = torch.tensor([[0.3, 0.3, 0.7, 0.7]])
    others = torch.tensor([[0.4, 0.35, 0.8, 0.75], [0.35, 0.4, 0.65, 0.6], [0.75, 0.75, 0.95, 0.95]])
    metrics = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
    figure, axes = panels("overlap", "inside", "apart")
    for i, one in enumerate(axes):
        add_box(one, box[0], GT)
        add_box(one, others[i], PRIOR)
        values = [f"{name}: {float(getattr(ssd_ops, name)(box, others[i : i + 1])):+.2f}" for name in metrics]
        one.text(0.02, 0.02, "\n".join(values), fontsize=7, va="top", family="monospace")
    return figure


def box_codec() -> plt.Figure:
    """A ground truth and a prior, and the deltas between them."""
    prior, gt = torch.tensor([[0.25, 0.3, 0.65, 0.7]]), torch.tensor([[0.35, 0.25, 0.85, 0.8]])
    deltas = ssd_ops.encode_boxes(gt, prior)
    figure, (one,) = panels("encode_boxes(gt, prior)")
    add_box(one, prior[0], PRIOR, "prior")
    add_box(one, gt[0], GT, "ground truth")
    start, end = ((box[0, :2] + box[0, 2:]) / 2 for box in (prior, gt))
    one.annotate("", end.tolist(), start.tolist(), arrowprops={"arrowstyle": "->"})
    one.text(0.03, 0.97, "deltas = " + ", ".join(f"{value:+.2f}" for value in deltas[0].tolist()), fontsize=8)
    return figure


def match_priors() -> plt.Figure:
    """Which priors each of two ground truths is assigned, by the three rules."""
    gt = torch.tensor([[0.1, 0.15, 0.5, 0.6], [0.33, 0.3, 0.6, 0.58]])
    steps = torch.arange(4) * 0.24 + 0.02
    corners = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 2)
    priors = torch.cat([corners, corners + 0.3], dim=1).clamp(max=1)
    figure, axes = panels('rule="greedy"', 'rule="last"', 'rule="none"')
    for one in axes:
        rule = one.get_title().split('"')[1]
        found = ssd_ops.match_priors([gt], [torch.tensor([1, 2])], priors, rule=rule, iou_threshold=0.6)
        for prior, index in zip(priors, found.gt_index[0].tolist(), strict=True):
            color = DROPPED if index < 0 else (KEPT, PRIOR)[index]
            add_box(one, prior, color, width=0.5 if index < 0 else 1.5)
        for box, color in zip(gt, (KEPT, PRIOR), strict=True):
            add_box(one, box, color, width=3)
    return figure


def multibox_loss() -> plt.Figure:
    """Losses of the negatives of one image, and those that hard negative mining keeps."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 60, 3, generator=generator) * 2
    labels = torch.zeros(1, 60, dtype=torch.int64)
    labels[0, :6] = 1
    losses = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="none")
    order = losses[6:].argsort(descending=True)
    figure, one = plt.subplots(figsize=(7, 3))
    one.bar(range(6), losses[:6], color=GT, label="positives")
    one.bar(range(7, 7 + 18), losses[6:][order[:18]], color=KEPT, label="hard negatives: 3 for each positive")
    one.bar(range(25, 25 + 36), losses[6:][order[18:]], color=DROPPED, label="negatives that do not contribute")
    one.set(xlabel="priors of one image, negatives by descending loss", ylabel="cross entropy")
    one.legend()
    return figure


def crowd() -> tuple[Tensor, Tensor]:
    """Boxes around two objects, with scores."""
    offsets = torch.tensor([[0.0, 0.0], [0.05, -0.06], [-0.06, 0.06], [0.1, 0.02]])
    centers = torch.cat([torch.tensor([0.32, 0.36]) + offsets, torch.tensor([0.62, 0.68]) - offsets])
    sides = torch.tensor([[0.34, 0.36], [0.32, 0.32], [0.36, 0.32], [0.3, 0.34]]).repeat(2, 1)
    scores = torch.tensor([0.92, 0.71, 0.55, 0.34, 0.86, 0.48, 0.77, 0.62])
    return torch.cat([centers - sides / 2, centers + sides / 2], dim=1), scores


def nms() -> plt.Figure:
    """Boxes before and after NMS."""
    boxes, scores = crowd()
    keep = ssd_ops.nms(boxes, scores, 0.4).tolist()
    figure, axes = panels("candidates", "nms(boxes, scores, 0.4)")
    for i, box in enumerate(boxes):
        add_box(axes[0], box, PRIOR, f"{float(scores[i]):.2f}", width=1)
        add_box(
            axes[1],
            box,
            KEPT if i in keep else DROPPED,
            f"{float(scores[i]):.2f}" if i in keep else "",
            2 if i in keep else 0.5,
        )
    return figure


def multiclass_nms() -> plt.Figure:
    """NMS class by class: boxes of different classes do not suppress each other."""
    boxes, scores = crowd()
    classes = torch.stack([torch.zeros(8), scores, scores.flip(0)], dim=1)
    figure, axes = panels("class 1", "class 2")
    found = ssd_ops.multiclass_nms(
        boxes[None], classes[None], score_threshold=0.2, iou_threshold=0.4, candidates_per_class=8, max_detections=8
    )
    count = int(found.counts[0])
    for box, score, label in zip(found.boxes[0, :count], found.scores[0, :count], found.labels[0, :count], strict=True):
        add_box(axes[int(label) - 1], box, KEPT, f"{float(score):.2f}")
    for one in axes:
        for box in boxes:
            add_box(one, box, DROPPED, width=0.4)
    return figure


def soft_nms() -> plt.Figure:
    """Scores before and after Soft-NMS."""
    boxes, scores = crowd()
    options = {"score_threshold": 0.0, "max_detections": 8}
    found = {
        method: ssd_ops.soft_nms(
            boxes[None], torch.stack([torch.zeros(8), scores], dim=1)[None], method=method, **options
        )
        for method in ("linear", "gaussian")
    }
    figure, one = plt.subplots(figsize=(7, 3))
    one.plot(sorted(scores.tolist(), reverse=True), "o-", color=DROPPED, label="scores")
    for (method, result), color in zip(found.items(), (PRIOR, KEPT), strict=True):
        one.plot(result.scores[0, : int(result.counts[0])].tolist(), "o-", color=color, label=method)
    one.set(xlabel="detections by descending score", ylabel="score")
    one.legend()
    return figure


def detect() -> plt.Figure:
    """From the outputs of a network to detections: softmax, threshold, decoding and NMS per class in one op."""
    boxes, scores = crowd()
    logits = torch.stack([torch.zeros(8), scores * 6 - 2], dim=1)
    found = ssd_ops.detect(torch.zeros(1, 8, 4), logits[None], boxes, score_threshold=0.5)
    figure, axes = panels("priors and class probabilities", "detect(loc, logits, priors)")
    for box, probability in zip(boxes, logits.softmax(1)[:, 1], strict=True):
        add_box(axes[0], box, PRIOR, f"{float(probability):.2f}", width=1)
    for box, score in zip(found.boxes[0, : int(found.counts[0])], found.scores[0], strict=False):
        add_box(axes[1], box, KEPT, f"{float(score):.2f}")
    return figure


def render_images() -> plt.Figure:
    """A crop of an image, resized, flipped and recolored."""
    rows, columns = torch.meshgrid(torch.arange(120), torch.arange(160), indexing="ij")
    checks = ((rows // 20 + columns // 20) % 2 * 255).to(torch.uint8)
    image = torch.stack([checks, (columns * 255 / 160).to(torch.uint8), (rows * 255 / 120).to(torch.uint8)])
    crop = torch.tensor([[40.0, 20.0, 140.0, 110.0]])
    drawn = ssd_ops.render_images([image], crop, 100, flip=torch.tensor([True]))
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
    axes[0].imshow(image.permute(1, 2, 0))
    x1, y1, x2, y2 = crop[0].tolist()
    axes[0].add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=2))
    axes[1].imshow(drawn[0].permute(1, 2, 0).clamp(0, 255) / 255)
    for one, title in zip(axes, ("image and crop", "render_images(..., size=100, flip=True)"), strict=True):
        one.set(xticks=[], yticks=[])
        one.set_title(title, fontsize=10)
    return figure


FIGURES: dict[str, Callable[[], plt.Figure]] = {
    draw.__name__: draw
    for draw in (box_iou, box_codec, match_priors, multibox_loss, nms, multiclass_nms, soft_nms, detect, render_images)
}


def draw_all() -> None:
    """Draws the figures of all ops; the same code draws the same bytes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "ssd_ops", "svg.fonttype": "path"}):
        for name, draw in FIGURES.items():
            figure = draw()
            figure.savefig(FOLDER / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    draw_all()
