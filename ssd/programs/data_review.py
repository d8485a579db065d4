"""The command `ssd data review`; torch is imported when it runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssd.common.atomic_write import check_writable
from ssd.common.errors import ConfigError, DataError
from ssd.config import TrainConfig, check_settings, flag
from ssd.config.choices import FILE_DATASETS, HIDING
from ssd.config.resume_settings import recorded_settings
from ssd.programs.device_arguments import add_device_flag
from ssd.programs.train_arguments import key_value, reject_code, with_data_settings
from ssd.weight_files.names import checked_checkpoint

ABOUT = """Review annotations with a trained detector.

Lists the objects that are most likely unlabeled, mislabeled or badly placed, the most certain ones first. Writes to the
folder --output (default: "review" in the run folder):

  review.html         images of the findings
  review.json         all findings
  cvat.xml            corrected annotations of all images ("CVAT for images 1.1")
  label_studio.json   images with findings as tasks for Label Studio, with corrected annotations as predictions

The data set is that of the run; the detector may have been trained on the same images. --fix also writes a copy of the data
set to train on, with the unlabeled objects; annotated objects stay as they are.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("checkpoint", help="run folder (uses best.pt, else last.pt) or checkpoint")
    parser.add_argument("--data-path", metavar="PATH", help="data set to review (default: that of the run)")
    parser.add_argument("--dataset", choices=("auto", *FILE_DATASETS), help="its format (default: that of the run)")
    parser.add_argument(
        "--dataset-option", action="append", metavar="KEY=VALUE", help="option of its reader, repeatable"
    )
    parser.add_argument("--splits", nargs="+", default=[], metavar="SPLIT", help="splits to review (default: all)")
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.1,
        metavar="X",
        help="score of an unlabeled object to report (default: 0.1)",
    )
    parser.add_argument("--worst", type=int, default=100, metavar="N", help="images of each kind (default: 100)")
    parser.add_argument("--output", metavar="FOLDER", help="folder to write to")
    parser.add_argument(
        "--fix", metavar="FOLDER", help="write a copy with the unlabeled objects here, as COCO files, to train on"
    )
    parser.add_argument(
        "--fix-score",
        type=float,
        default=0.3,
        metavar="X",
        help="score from which they get a label in the copy; others are ignored in training (default: 0.3)",
    )
    add_device_flag(parser)


def check_arguments(args: argparse.Namespace) -> TrainConfig:
    """Returns the settings of the data set.

    Raises:
        ConfigError: There is no data set or checkpoint, or a value is out of range.
    """
    for name in ("min_score", "fix_score"):
        if not 0 < getattr(args, name) <= 1:
            raise ConfigError(f"{flag(name)} must be in (0, 1], got {getattr(args, name)}")
    if args.worst < 0:
        raise ConfigError(f"--worst must not be negative, got {args.worst}")
    args.checkpoint = checked_checkpoint(args.checkpoint)
    recorded = (recorded_settings(args.checkpoint) or {}) if Path(args.checkpoint).exists() else {}
    values: dict[str, Any] = {}
    if args.data_path is None:
        names = ("dataset", "data_path", "dataset_options")
        values = {name: recorded[name] for name in names if recorded.get(name) is not None}
    given = {"data_path": args.data_path, "dataset": args.dataset}
    values |= {name: value for name, value in given.items() if value is not None}
    reject_code(values.get("dataset", "auto"))
    if values.get("data_path") is None:
        raise ConfigError(f"--data-path is required: {args.checkpoint} does not record a data set in files")
    options = dict(key_value("dataset_options", item) for item in args.dataset_option or ())
    kept = {key: value for key, value in values.get("dataset_options", {}).items() if key not in HIDING}
    config = TrainConfig(**with_data_settings({**values, "dataset_options": {**kept, **options}}))
    check_settings(config)
    if args.output is None:
        run = Path(args.checkpoint)
        args.output = str((run if run.is_dir() else run.parent) / "review") if run.exists() else "review"
    for name in ("output", "fix"):
        if getattr(args, name):
            check_writable(f"--{name}", getattr(args, name), is_folder=True)
    return config


def run(args: argparse.Namespace, config: TrainConfig) -> None:
    """Reviews the data set, prints the findings and writes the files.

    Raises:
        DataError: The data set cannot be read, or a file could not be written; the others are written anyway.
    """
    from ssd.data_check.repair import check_target
    from ssd.data_check.splits import open_all
    from ssd.data_review.corrected import write_corrected
    from ssd.data_review.formats import cvat_xml, label_studio_tasks
    from ssd.data_review.page import review_page
    from ssd.data_review.report import review_data
    from ssd.engine.setup import choose_device
    from ssd.inference.detector import load

    folder = Path(args.output)
    if args.fix:
        check_target(Path(args.fix), Path(str(config.data_path)))
    folder.mkdir(parents=True, exist_ok=True)  # an error here comes before the detector runs
    detector = load(args.checkpoint, choose_device(args.device))
    datasets, _ = open_all(config.dataset, str(config.data_path), tuple(args.splits), config.dataset_options)
    report = review_data(detector, datasets, min_score=args.min_score)
    print(report)
    root = Path(str(config.data_path))
    root = root if root.is_dir() else root.parent
    _write(
        folder,
        {
            "review.json": lambda: json.dumps(report.as_dict(), indent=1) + "\n",
            "cvat.xml": lambda: cvat_xml(report, root),
            "label_studio.json": lambda: json.dumps(label_studio_tasks(report, root)) + "\n",
            "review.html": lambda: review_page(report, args.worst),
        },
    )
    if args.fix:
        print(write_corrected(report, Path(args.fix), str(config.data_path), args.fix_score))


def _write(folder: Path, files: Mapping[str, Callable[[], str]]) -> None:
    # one by one, so that a failure loses one file only
    from ssd.common.atomic_write import write_text

    written, failed = [], []
    for name, text in files.items():
        try:
            write_text(folder / name, text())
            written.append(name)
        except (OSError, ValueError) as error:
            failed.append(f"{name} ({error})")
    if written:
        print(f"{folder}: {', '.join(written)}")
    if failed:
        raise DataError(f"not written: {'; '.join(failed)}")
