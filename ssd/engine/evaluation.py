"""Evaluation of a model in a run: metrics, curves and pictures into the run folder."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ssd.atomic_write import write_text
from ssd.class_names import column_titles
from ssd.config import TrainConfig
from ssd.data import Batch, DetectionDataset, Loader, PackedImages
from ssd.data.faults import DataError
from ssd.engine.plots import plot_losses, plot_precision_recall
from ssd.engine.progress import progress_bar
from ssd.engine.run_folder import RunFolder
from ssd.evaluate import ClassResult, COCOResult, Evaluator, VOCResult, voc_ap
from ssd.inference.drawing import draw_boxes, resize, save_grid, side_by_side
from ssd.inference.engine import InferenceEngine
from ssd.models import SSD

PICTURE_SCORE = 0.4  # detections below it are not drawn, where evaluation has found no better score for their class


def detect_all(model: SSD, batches: Iterable[Batch], evaluator: Evaluator) -> None:
    """Run the model over all batches, in float32, and gather its detections."""
    engine = InferenceEngine(model.eval(), dtype=torch.float32)
    waiting: deque[Batch] = deque()

    def images() -> Iterator[Tensor | PackedImages]:
        for batch in batches:
            waiting.append(batch)
            yield batch.images

    for detections in engine.detect_all(images()):
        evaluator.update_batch(detections, waiting.popleft())


def evaluate_model(model: SSD, loader: Loader, config: TrainConfig, folder: RunFolder, epoch: int, step: int) -> float:
    """Evaluate, print and write all that the run folder keeps of it.

    Several processes each look at their share of the images; the first then judges all detections, in the order of the
    data set, as one process alone would.

    Returns:
        AP50 (VOC metrics) or AP (COCO): what the best checkpoint is chosen by; NaN where there is no object to judge by.
    """
    world, dataset = folder.world, loader.dataset
    world.broadcast_buffers(model)
    evaluator = Evaluator.of(dataset, metric_of(config))
    with world.fail_together():
        detect_all(model, progress_bar(loader, world.is_first, desc="evaluation", leave=False), evaluator)
    value = math.nan
    gathered = world.gather_on_first((evaluator.records, dataset.report))
    with world.fail_together():
        if world.is_first:
            for records, faults in gathered[1:]:
                evaluator.records.merge(records)
                for fault in faults:
                    dataset.log.add(fault)
            evaluator.records.sort(dataset.index_of)
            value = report(evaluator, dataset, config, folder, epoch, step)
    return float(world.from_first(value))


def report(
    evaluator: Evaluator, dataset: DetectionDataset, config: TrainConfig, folder: RunFolder, epoch: int, step: int
) -> float:
    """Judge, print, write and draw; return the value that the best checkpoint is chosen by."""
    result = evaluator.summarize()
    print(f"epoch {epoch}, {dataset.name}:\n{result}")
    left_out, not_finite = dataset.num_listed - result.images, evaluator.records.count_not_finite()
    for line in remarks(dataset, left_out, not_finite):
        print(line)
    curves = result if isinstance(result, VOCResult) else voc_ap(evaluator.records, dataset.classes)
    folder.thresholds = best_thresholds(curves)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.eval_log.add({"epoch": epoch, "step": step, **_columns(result, curves)})
    about = {"epoch": epoch, **result.as_dict(), "images_left_out": left_out, "boxes_not_finite": not_finite}
    folder.survive(
        "eval.json", lambda: write_text(folder.path / "eval.json", json.dumps(about, indent=2, allow_nan=False) + "\n")
    )
    if not config.test_only:
        folder.survive(
            "loss.png", lambda: plot_losses(folder.train_log.rows(), folder.eval_log.rows(), folder.path / "loss.png")
        )
    found = {c.name: curve_of(c) for c in curves.classes if c.objects}
    folder.survive("pr.png", lambda: plot_precision_recall(found, folder.path / "pr.png"))
    if config.pictures:
        folder.survive("detections.png", lambda: draw_pictures(evaluator, dataset, config.pictures, folder))
    return result.mean_ap


def remarks(dataset: DetectionDataset, left_out: int, not_finite: int) -> list[str]:
    """What a reader of an AP must know besides: images that it leaves out, with their faults, and boxes that are NaN."""
    lines = []
    if new := dataset.log.new_entries():
        lines.append(f"faults met while reading the images:\n{new}")
    if left_out:
        total = dataset.num_listed
        lines.append(f"AP of {total - left_out} of {total} images ({left_out} left out, named above)")
    if not_finite:
        lines.append(
            f"{not_finite} detections have boxes with NaN or inf; each counts as wrong. Has training diverged?"
        )
    return lines


def best_thresholds(curves: VOCResult) -> dict[str, float]:
    """The score from which to show the detections of each class: that of the best F1, where anything was found."""
    # rounded down, so that the detection at the threshold is shown too
    return {c.name: math.floor(c.score * 1e4) / 1e4 for c in curves.classes if c.tp}


def metric_of(config: TrainConfig) -> str:
    """The metric of a configuration; `auto` is COCO's for COCO data, else VOC's area."""
    if config.eval_metric != "auto":
        return config.eval_metric
    return "coco" if config.dataset == "coco" else "voc"


def draw_pictures(evaluator: Evaluator, dataset: DetectionDataset, count: int, folder: RunFolder) -> None:
    """Save a grid of images, the truth left and the detections right."""
    records = evaluator.records
    lowest = np.array([1.0, *(folder.thresholds.get(name, PICTURE_SCORE) for name in dataset.classes)])
    pictures: list[Tensor] = []
    step = max(1, len(records.image_ids) // count)
    for i in range(0, len(records.image_ids), step):
        if len(pictures) == count:
            break
        index = dataset.index_of(records.image_ids[i])
        try:
            image = dataset.load_image(index)
        except DataError:
            continue  # named in the data set's report
        target, sure = dataset.target(index), records.scores[i] >= lowest[records.labels[i]]
        found = draw_boxes(
            image,
            torch.from_numpy(records.boxes[i][sure]),
            torch.from_numpy(records.labels[i][sure]),
            dataset.classes,
            torch.from_numpy(records.scores[i][sure]),
        )
        truth = draw_boxes(image, target["boxes"], target["labels"], dataset.classes)
        pictures.append(resize(side_by_side(truth, found), 640))
    if pictures:
        save_grid(pictures, folder.path / "detections.png")


def _columns(result: VOCResult | COCOResult, curves: VOCResult) -> dict[str, float]:
    """The columns of eval.csv: AP50 first, then COCO's numbers or AP by class."""
    if isinstance(result, COCOResult):
        return {"AP50": result.stats["AP50"], **{k: v for k, v in result.stats.items() if k != "AP50"}}
    titles = column_titles([c.name for c in curves.classes], ("epoch", "step", "AP50"))
    return {"AP50": curves.mean_ap, **{title: c.ap for title, c in zip(titles, curves.classes, strict=True)}}


def curve_of(result: ClassResult) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns recall, precision and AP of a class, for `plot_precision_recall`."""
    return result.recall, result.precision, result.ap
