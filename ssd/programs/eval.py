"""Evaluate a checkpoint on a data set.

    ssd eval runs/ssd_tiny-shapes-1
    ssd eval runs/ssd_tiny-shapes-1 --data-path bccd --save evaluation
    ssd eval SSD300_VGG16_Weights.COCO_V1 --data-path coco --split val2017
    ssd eval ssd300_mAP_77.43_v2.pth --data-path VOCdevkit --split 2007_test --metric voc07

Prints the AP of each class and which kinds of errors cost the most AP. Data set, splits and metric of a run folder are
those of the run; flags override them. Classes of the model and the data are matched by name.

--save writes eval.json, precision-recall curves, the confusion matrix (image and CSV), and the worst errors: false
positives with the highest scores, confused classes, and the largest missed objects (errors.json and images with ground
truth on the left and detections on the right).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from ssd.common.atomic_write import check_writable
from ssd.common.console import ArgumentParser, console_program, program_name
from ssd.common.errors import ConfigError
from ssd.config import TrainConfig, check_settings
from ssd.config.choices import CHOICES, DATASETS
from ssd.config.resume_settings import recorded_settings
from ssd.programs.device_arguments import add_device_flag, add_half_flag, half_dtype
from ssd.programs.post_processing import add_post_processing_flags, apply_post_processing
from ssd.programs.train_arguments import key_value, reject_code, with_data_settings
from ssd.weight_files.names import checked_checkpoint

# Settings of a run that affect its evaluation, and those that apply to its own data set only.
_EVALUATION_SETTINGS = ("model", "data_augmentation", "augmentation_options", "eval_metric", "batch_size", "workers")
_DATA_SETTINGS = ("dataset", "data_path", "train_split", "val_split", "val_share", "dataset_options")


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, TrainConfig]:
    """Parses and checks the command line, without importing torch."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        parser.error(f"--score-threshold must be in 0..1, got {args.score_threshold}")
    if args.worst < 0:
        parser.error(f"--worst must not be negative, got {args.worst}")
    try:
        for name in ("json", "save"):
            if getattr(args, name):
                check_writable(f"--{name}", getattr(args, name), is_folder=name == "save")
        args.checkpoint = checked_checkpoint(args.checkpoint)
    except ConfigError as error:
        parser.error(str(error))
    try:
        return args, configure(args)
    except (ConfigError, TypeError) as error:
        parser.error(str(error))


def settings_of(checkpoint: str, data_path: str | None = None) -> TrainConfig:
    """Returns the settings of an evaluation of a checkpoint, by default on the data set of its run.

    Raises:
        ConfigError: As `configure`.
    """
    return configure(_build_parser().parse_args([checkpoint, *(("--data-path", data_path) if data_path else ())]))


def configure(args: argparse.Namespace) -> TrainConfig:
    """Merges the settings of a run with those of the command line, which take precedence.

    Raises:
        ConfigError: There is no data set, or a configuration value is invalid.
    """
    is_file = os.path.exists(args.checkpoint)
    recorded = (recorded_settings(args.checkpoint) or {}) if is_file else {}
    values: dict[str, Any] = {name: recorded[name] for name in _EVALUATION_SETTINGS if name in recorded}
    if args.data_path is None or _same_path(args.data_path, recorded.get("data_path")):
        values |= {name: recorded[name] for name in _DATA_SETTINGS if name in recorded}
    given = {"data_path": args.data_path, "dataset": args.dataset, "eval_metric": args.metric}
    given |= {"batch_size": args.batch_size, "workers": args.workers}
    values |= {name: value for name, value in given.items() if value is not None}
    if args.dataset_option:
        options = dict(key_value("dataset_options", item) for item in args.dataset_option)
        values["dataset_options"] = {**values.get("dataset_options", {}), **options}
    if "data_path" not in values and values.get("dataset", "auto") == "auto":
        raise ConfigError(f"--data-path is required: {args.checkpoint} does not record the data set of its run")
    if args.dataset is None and not args.trust_config:
        reject_code(values.get("dataset", "auto"))
    config = TrainConfig(**with_data_settings(values))
    check_settings(config)
    return config


def _same_path(one: str, other: str | None) -> bool:
    return other is not None and Path(one).resolve() == Path(other).resolve()


def _build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog=program_name("eval"), description=__doc__)
    parser.add_argument(
        "checkpoint",
        help="run folder (uses best.pt, else last.pt), checkpoint of any supported system, or name of torchvision's "
        "weights",
    )
    parser.add_argument("--data-path", metavar="PATH", help="data set to evaluate on (default: that of the run)")
    parser.add_argument(
        "--dataset", metavar="NAME", help=f"format of the data set: {', '.join(DATASETS)} (default: auto-detect)"
    )
    parser.add_argument(
        "--dataset-option", action="append", metavar="KEY=VALUE", help="option of the data set; repeatable"
    )
    parser.add_argument(
        "--split", metavar="NAME", help="split to evaluate on (default: the one that training evaluates on)"
    )
    parser.add_argument(
        "--metric", choices=CHOICES["eval_metric"], help="metric (default: coco for COCO data, else voc)"
    )
    parser.add_argument("--save", metavar="DIR", help="folder for curves, confusion matrix and worst errors")
    parser.add_argument("--json", metavar="FILE", help="JSON file for the metrics")
    parser.add_argument("--worst", type=int, default=24, metavar="N", help="errors of each kind to draw (default: 24)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="X",
        help="score threshold of the confusion matrix and the errors (default: that with the best F1 of each class)",
    )
    parser.add_argument(
        "-b", "--batch-size", type=int, metavar="N", help="images per batch (default: that of the run, or 16)"
    )
    parser.add_argument(
        "-j", "--workers", type=int, metavar="N", help="data loading processes (default: that of the run, or 2)"
    )
    add_post_processing_flags(parser)
    add_device_flag(parser)
    add_half_flag(parser, "float32, as in training")
    parser.add_argument(
        "--trust-config", action="store_true", help="allow the configuration of the run to run code of its data set"
    )
    return parser


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs the program."""
    args, config = parse_args(argv)
    from ssd.common.atomic_write import WriteError, write_text
    from ssd.common.errors import DataError
    from ssd.engine.checkpoint_evaluation import evaluate_detector, open_split, save_report
    from ssd.engine.setup import choose_device
    from ssd.inference.detector import load

    try:
        device = choose_device(args.device)
        dataset = open_split(config, args.split)
        print(dataset.summary())
        dataset.log.new_entries()  # the summary contains them
        detector = load(args.checkpoint, device, half_dtype(bool(args.half), device))
        apply_post_processing(detector, args)
        report = evaluate_detector(detector, dataset, config, detector.engine.detect_all)
        print(report)
        if args.json:
            write_text(Path(args.json), json.dumps(report.as_dict(), indent=2) + "\n")
        if args.save:
            folder = Path(args.save)
            written = save_report(report, folder, worst=args.worst, score_threshold=args.score_threshold)
            print(f"{folder}: {', '.join(path.name for path in written)}")
    except (ConfigError, DataError, WriteError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or args.save or args.json}: {error.strerror or error}")
