"""The data check at the start of training: as much as a few seconds allow, or everything."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np

from ssd.common.console import how_to_run
from ssd.common.cores import usable_cores
from ssd.config import TrainConfig
from ssd.config.choices import FILE_DATASETS, HIDING
from ssd.config.option_text import option_text
from ssd.data import DetectionDataset
from ssd.data_check.duplicates import find_duplicates
from ssd.data_check.encodings import find_encoding_errors
from ssd.data_check.images import examine_some, find_dark_images
from ssd.data_check.objects import find_repeated_objects
from ssd.data_check.report import CheckReport, check_datasets

SECONDS = 2.0  # time limit for reading images in the fast form
_MOST = 20_000  # images of a split
_LISTED = 2  # faults of each kind


def check_before_training(config: TrainConfig, train_set: DetectionDataset, val_set: DetectionDataset) -> list[str]:
    """Returns what is wrong with the images of a run, as lines; the faults that readers found are printed before.

    Args:
        config: `data_check` and the name of the data set.
        train_set: Training images.
        val_set: Evaluation images; may be the same object.
    """
    if config.data_check == "off" or not (config.dataset in FILE_DATASETS or ":" in config.dataset):
        return []
    datasets = {config.train_split: train_set}
    if val_set is not train_set:
        datasets[config.val_split if config.val_split != config.train_split else "evaluation"] = val_set
    began, path = time.perf_counter(), str(config.data_path)
    if ":" in config.dataset:  # its items were read when it was opened, perhaps with random transforms
        faults = [fault for dataset in datasets.values() for fault in find_encoding_errors(dataset, dataset.name)]
        return [f"warning: data check: {fault}" for fault in faults]
    if config.data_check == "full":
        report = check_datasets(datasets, path, usable_cores())
        for dataset in datasets.values():
            dataset.log.new_entries()  # the lines below contain them
    else:
        report = check_fast(datasets, path)
    count, total = sum(map(len, report.images.values())), sum(map(len, datasets.values()))
    seen = "all" if count == total else f"{count} of"
    head = f"data check: {seen} {total} images in {time.perf_counter() - began:.1f} s"
    command = check_command(config)
    if not report.counts:
        what = "nothing else found" if any(dataset.log.counts for dataset in datasets.values()) else "nothing found"
        return [f"{head}, {what}" + ("" if count == total else f" (every image: {command})")]
    head = f"warning: {head}" if report.has_problems else head
    return [f"{head}: {report.totals} (more: {command})", *(f"  {line}" for line in report.findings(_LISTED))]


def check_command(config: TrainConfig) -> str:
    """Returns the command that checks every image of the data set of a run, with its format and options."""
    options = [f"{key}={option_text(value)}" for key, value in config.dataset_options.items() if key not in HIDING]
    arguments = ["check", str(config.data_path), "--dataset", config.dataset]
    arguments += [part for option in options for part in ("--dataset-option", option)]
    return f"{how_to_run('data')} {shlex.join(arguments)}"


def check_fast(datasets: dict[str, DetectionDataset], path: str, seconds: float = SECONDS) -> CheckReport:
    """Checks as many images, in random order, as can be read in the time given, and their objects.

    Args:
        datasets: Split -> data set.
        path: Folder of the data, for messages.
        seconds: For reading images.
    """
    report = CheckReport(datasets, images={split: [] for split in datasets})
    end, order = time.perf_counter() + seconds, list(_shuffled(datasets))
    chosen = [(datasets[split], index) for split, index in order]
    found = examine_some(chosen, usable_cores(), ahead=2)
    for (split, _), facts in zip(order, found, strict=False):
        report.images[split].append(facts)
        if time.perf_counter() > end:
            break
    found.close()  # threads end
    report.add(facts.fault for images in report.images.values() for facts in images if facts.fault is not None)
    for split, dataset in datasets.items():
        report.add(find_encoding_errors(dataset, f"{path}, {split}", fast=True))
        rows = [index for name, index in order if name == split][: len(report.images[split])]
        report.add(find_repeated_objects(dataset, sorted(rows)))
        report.add(find_dark_images(report.images[split]))
    report.duplicates = list(find_duplicates(report.images))
    report.add(duplicate.fault for duplicate in report.duplicates)
    return report


def _shuffled(datasets: dict[str, DetectionDataset]) -> Iterator[tuple[str, int]]:
    """Yields each image at most once, in an order that is always the same and alternates between the splits."""
    draw = np.random.default_rng(0)
    orders = [
        [(split, int(row)) for row in draw.permutation(len(dataset))[:_MOST]] for split, dataset in datasets.items()
    ]
    for images in zip_longest(*orders):
        yield from (image for image in images if image is not None)
