"""Checks images, boxes and splits of a data set, and reports everything as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from ssd.common.class_names import display_name, list_first
from ssd.data import DetectionDataset, Fault
from ssd.data_check.duplicates import Duplicate, find_duplicates
from ssd.data_check.encodings import find_encoding_errors
from ssd.data_check.images import DARK, ImageFacts, examine_images, find_dark_images
from ssd.data_check.objects import UNMATCHED, PriorReport, find_repeated_objects

# Kinds of faults that may be intended or that do not harm training; all others are problems.
WARNINGS = (
    "duplicate image",
    "near-duplicate",
    "near-duplicate in two splits",
    "object annotated twice",
    DARK,
    UNMATCHED,
    "classes without objects",
)
_LISTED = 5  # faults of each kind in the text
_NAMED = 20  # classes in a message


@dataclass
class CheckReport:
    """The findings of a check.

    Args:
        datasets: Split -> data set, whose logs hold the faults of its reader and of its images.
        images: Split -> properties of its images.
        remarks: Remarks for the user.
        faults: Each once, those of readers first.
        counts: Faults by kind; more than are in `faults` where a data set has very many.
        duplicates: Images that occur twice; they are among the faults, too.
        priors: Matches of priors with objects; None if not requested or without objects.
    """

    datasets: dict[str, DetectionDataset]
    images: dict[str, list[ImageFacts]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    duplicates: list[Duplicate] = field(default_factory=list)
    priors: PriorReport | None = None

    @property
    def has_problems(self) -> bool:
        """Whether there is any finding that is not a warning."""
        return any(kind not in WARNINGS for kind in self.counts)

    def add(self, faults: Iterable[Fault]) -> None:
        """Adds faults and counts them."""
        for fault in faults:
            self.faults.append(fault)
            self.counts[fault.kind] += 1

    def as_dict(self) -> dict[str, Any]:
        """Returns everything for JSON."""
        found = [
            {"severity": _severity(fault.kind), **{key: v for key, v in vars(fault).items() if v is not None}}
            for fault in self.faults
        ]
        return {
            "well": not self.has_problems,
            "splits": {split: self._counts_of(split) for split in self.datasets},
            "counts": dict(self.counts),
            "findings": found,
            "remarks": self.remarks,
            "priors": None if self.priors is None else self.priors.as_dict(),
        }

    def _counts_of(self, split: str) -> dict[str, Any]:
        summary, facts = self.datasets[split].summary(), self.images[split]
        return {
            "images": summary.images,
            "images_listed": self.datasets[split].num_listed,
            "images_unreadable": sum(image.fault is not None for image in facts),
            "images_without_objects": summary.empty_images,
            "images_with_exif_orientation": sum(image.orientation > 1 for image in facts),
            "objects": summary.objects,
            "objects_ignored": summary.ignored,
            "classes": summary.per_class,
        }

    def __str__(self) -> str:
        lines = []
        for split, dataset in self.datasets.items():
            lines.append(str(dataclasses.replace(dataset.summary(), faults={}, report=())))
            counts = self._counts_of(split)
            readable = counts["images"] - counts["images_unreadable"]
            oriented = counts["images_with_exif_orientation"]
            exif = f", {oriented} with an EXIF orientation" if oriented else ""
            lines.append(f"  {readable} of {counts['images']} images decoded{exif}")
        lines += [f"note: {remark}" for remark in self.remarks]
        lines += self.findings(_LISTED, " (--json names them)")
        if self.priors is not None:
            lines.append(str(self.priors))
        lines.append(self.totals)
        return "\n".join(lines)

    @property
    def totals(self) -> str:
        """Numbers of problems and warnings in words."""
        problems = sum(count for kind, count in self.counts.items() if kind not in WARNINGS)
        warnings = self.counts.total() - problems
        return f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}"

    def findings(self, listed: int, more: str = "") -> list[str]:
        """Returns lines with the faults of each kind, problems first.

        Args:
            listed: Maximum number of faults of each kind.
            more: How to find the others.
        """
        lines = []
        for severity in ("problem", "warning"):
            for kind in (kind for kind in self.counts if _severity(kind) == severity):
                lines.append(f"{severity}: {kind} ({self.counts[kind]})")
                faults = [fault for fault in self.faults if fault.kind == kind]
                lines += [f"  {fault}" for fault in faults[:listed]]
                if self.counts[kind] > listed:
                    lines.append(f"  ... and {self.counts[kind] - listed} more{more}")
        return lines


def check_datasets(datasets: dict[str, DetectionDataset], path: str, workers: int) -> CheckReport:
    """Checks everything but priors.

    Args:
        datasets: Split -> data set.
        path: Folder of the data, for messages.
        workers: Threads that decode images.
    """
    report = CheckReport(datasets)
    for split, dataset in datasets.items():
        report.images[split] = []
        title, images = f"images of {split}", examine_images(dataset, workers)
        for facts in tqdm(images, title, len(dataset), leave=False, unit="image", mininterval=0.5, disable=None):
            report.images[split].append(facts)
            if facts.fault is not None:
                dataset.log.add(facts.fault)
    _add_reader_faults(report)
    for split, dataset in datasets.items():
        source = f"{path}, {split}"
        report.add(find_encoding_errors(dataset, source))
        report.add(_classes_without_objects(dataset, source))
        report.add(find_repeated_objects(dataset))
        report.add(find_dark_images(report.images[split]))
    report.duplicates = list(find_duplicates(report.images))
    report.add(duplicate.fault for duplicate in report.duplicates)
    return report


def _add_reader_faults(report: CheckReport) -> None:
    """Adds the faults that readers found; those of a file in two splits once."""
    seen: set[Fault] = set()
    for dataset in report.datasets.values():
        new = [fault for fault in dataset.log.faults if fault not in seen]
        report.add(new)
        seen.update(new)
        for kind, count in dataset.log.counts.items():  # includes those beyond the first, which the log does not name
            report.counts[kind] += count - sum(fault.kind == kind for fault in dataset.log.faults)
    report.counts = +report.counts


def _classes_without_objects(dataset: DetectionDataset, source: str) -> Iterable[Fault]:
    unused = getattr(dataset, "unused_labels", ())
    counts = enumerate(dataset.class_counts().items(), start=1)
    missing = [display_name(name) for label, (name, count) in counts if not count and label not in unused]
    if missing:
        yield Fault(source, "classes without objects", list_first(missing, _NAMED))


def _severity(kind: str) -> str:
    return "warning" if kind in WARNINGS else "problem"
