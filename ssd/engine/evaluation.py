"""Evaluation of a model in a run: writes metrics, plots and sample detections into the run folder."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssd.common.atomic_write import write_text
from ssd.common.class_names import column_titles
from ssd.config import TrainConfig
from ssd.data import Batch, DetectionDataset, Loader, PackedImages
from ssd.data.formats.shard_files import read_index
from ssd.engine.progress import progress_bar
from ssd.engine.run_folder import RunFolder
from ssd.evaluate import ClassResult, COCOResult, Evaluator, VOCResult, voc_ap
from ssd.inference.engine import InferenceEngine
from ssd.inference.graph import Images
from ssd.models import SSD
from ssd.reports.plots import plot_losses, plot_precision_recall
from ssd.reports.sample_images import draw_confusion, draw_samples
from ssd_ops import Detections


def detect_all(
    model: SSD,
    batches: Iterable[Batch],
    evaluator: Evaluator,
    detect: Callable[[Iterable[Images]], Iterator[Detections]] | None = None,
) -> None:
    """Runs the model in float32, or `detect` instead of it, on all batches and adds the detections to the evaluator."""
    detect = detect or InferenceEngine(model.eval(), dtype=torch.float32).detect_all
    waiting: deque[Batch] = deque()

    def images() -> Iterator[Tensor | PackedImages]:
        for batch in batches:
            waiting.append(batch)
            yield batch.images

    for detections in detect(images()):
        evaluator.update_batch(detections, waiting.popleft())


def evaluate_model(model: SSD, loader: Loader, config: TrainConfig, folder: RunFolder, epoch: int, step: int) -> float:
    """Evaluates the model, prints the result and writes it into the run folder.

    Each process runs the model on a part of the images; rank 0 then computes the metrics of all detections in the order
    of the data set, so that the result does not depend on the number of processes.

    Returns:
        AP50 (VOC metrics) or AP (COCO), which selects the best checkpoint; NaN if there is no object to evaluate.
    """
    world, dataset = folder.world, loader.dataset
    world.broadcast_buffers(model)
    evaluator = Evaluator.of(dataset, metric_of(config))
    with world.fail_together(), loader.naming_lost_images():
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
    """Computes the metrics, prints, writes and plots them; returns the value that selects the best checkpoint."""
    result = evaluator.summarize()
    folder.log_details(f"epoch {epoch}, {dataset.name}:\n{result}")
    skipped, not_finite = dataset.num_listed - result.images, evaluator.records.count_not_finite()
    for line in notices(dataset, skipped, not_finite):
        print(line)
    curves = result if isinstance(result, VOCResult) else voc_ap(evaluator.records, dataset.classes)
    folder.thresholds = best_thresholds(curves)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.eval_log.add({"epoch": epoch, "step": step, **_columns(result, curves)})
    about = {"epoch": epoch, **result.as_dict(), "images_skipped": skipped, "boxes_not_finite": not_finite}
    folder.try_task(
        "eval.json", lambda: write_text(folder.path / "eval.json", json.dumps(about, indent=2, allow_nan=False) + "\n")
    )
    if not config.test_only:
        folder.plot_later(
            "loss.png", lambda: plot_losses(folder.train_log.rows(), folder.eval_log.rows(), folder.path / "loss.png")
        )
    pr_curves = {c.name: curve_of(c) for c in curves.classes if c.objects}
    folder.plot_later("pr.png", lambda: plot_precision_recall(pr_curves, folder.path / "pr.png"))
    if config.pictures:
        path = folder.path / "detections.png"
        folder.try_task(path.name, lambda: draw_samples(evaluator, dataset, config.pictures, folder.thresholds, path))
    if folder.is_last:
        folder.wait_for_plots()
        matrix = folder.path / "confusion.png"
        folder.try_task(matrix.name, lambda: draw_confusion(evaluator, dataset, folder.thresholds, matrix))
    return result.mean_ap


def notices(dataset: DetectionDataset, skipped: int, not_finite: int) -> list[str]:
    """Returns notices about a metric: unreadable images that it does not include, and non-finite boxes."""
    lines = []
    if new := dataset.log.new_entries():
        lines.append(f"warning: errors while reading the images:\n{new}")
    if skipped:
        total = dataset.num_listed
        lines.append(f"warning: AP of {total - skipped} of {total} images ({skipped} skipped, see above)")
    if not_finite:
        lines.append(
            f"warning: {not_finite} detections have boxes with NaN or inf and count as wrong; training may have diverged"
        )
    return lines


def best_thresholds(curves: VOCResult) -> dict[str, float]:
    """Returns the score threshold with the best F1 of each class that has a correct detection."""
    # Rounded down, so that the detection at the threshold is included.
    return {c.name: math.floor(c.score * 1e4) / 1e4 for c in curves.classes if c.tp}


def metric_of(config: TrainConfig) -> str:
    """Returns the metric of a configuration; `auto` is "coco" for COCO data, packed or not, else "voc"."""
    if config.eval_metric != "auto":
        return config.eval_metric
    is_packed = config.dataset == "shards"
    dataset_format = read_index(Path(str(config.data_path)))["format"] if is_packed else config.dataset
    return "coco" if dataset_format == "coco" else "voc"


def _columns(result: VOCResult | COCOResult, curves: VOCResult) -> dict[str, float]:
    """Returns the columns of eval.csv: AP50 first, then COCO's metrics or the AP of each class."""
    if isinstance(result, COCOResult):
        return {"AP50": result.stats["AP50"], **{k: v for k, v in result.stats.items() if k != "AP50"}}
    titles = column_titles([c.name for c in curves.classes], ("epoch", "step", "AP50"))
    return {"AP50": curves.mean_ap, **{title: c.ap for title, c in zip(titles, curves.classes, strict=True)}}


def curve_of(result: ClassResult) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns recall, precision and AP of a class, for `plot_precision_recall`."""
    return result.recall, result.precision, result.ap
