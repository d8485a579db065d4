"""Evaluate a checkpoint on a data set.

    ssd eval runs/ssd_tiny-shapes-1
    ssd eval runs/ssd_tiny-shapes-1 --data-path bccd --save evaluation
    ssd eval SSD300_VGG16_Weights.COCO_V1 --data-path coco --split val2017
    ssd eval ssd300_mAP_77.43_v2.pth --data-path VOCdevkit --split 2007_test --metric voc07

Prints the table that training prints: AP of each class and what would raise it most. A run folder knows its data set,
splits and metric; what is given beside it wins. The classes of model and data are brought together by name.

--save writes eval.json, the precision-recall curves, the confusion matrix (picture and CSV), and the worst errors:
false positives with the highest scores, objects taken for another class, the largest missed objects (errors.json and
pictures, the truth left and the detections right).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.command_line import key_value, reject_code, with_data_settings
from ssd.config import TrainConfig
from ssd.config.choices import CHOICES, DATASETS
from ssd.config.resume_settings import recorded_settings
from ssd.console import console_program, program_name
from ssd.errors import ConfigError
from ssd.predict import TORCHVISION

# What of a run's settings says how it is evaluated, and of that what belongs to its own data set.
_RECORDED = ("model", "data_augmentation", "augmentation_options", "eval_metric", "batch_size", "workers")
_OF_DATA = ("dataset", "data_path", "train_split", "val_split", "val_share", "dataset_options")


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, TrainConfig]:
    """Reads the command line; mistakes are answered before torch is imported."""
    parser = argparse.ArgumentParser(
        prog=program_name("eval"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint",
        help="run folder (its best.pt, or else last.pt), checkpoint of any known system, or torchvision's name",
    )
    parser.add_argument("--data-path", help="data set to evaluate on (default: that of the run)")
    parser.add_argument("--dataset", help=f"its format: {', '.join(DATASETS)} (default: found out)")
    parser.add_argument(
        "--dataset-option", action="append", metavar="KEY=VALUE", help="option of its reader, repeatable"
    )
    parser.add_argument("--split", help="split to evaluate on (default: what training would evaluate on)")
    parser.add_argument("--metric", choices=CHOICES["eval_metric"], help="default: COCO's for COCO data, else VOC's")
    parser.add_argument("--save", metavar="DIR", help="folder for curves, confusion matrix and the worst errors")
    parser.add_argument("--json", metavar="FILE", help="file for the numbers")
    parser.add_argument("--worst", type=int, default=24, metavar="N", help="errors of each kind to draw (default: 24)")
    parser.add_argument(
        "--score-threshold", type=float, help="of the confusion matrix and errors (default: best F1 of each class)"
    )
    parser.add_argument("-b", "--batch-size", type=int, help="images at once (default: that of the run, or 16)")
    parser.add_argument("-j", "--workers", type=int, help="processes that load images (default: that of the run, or 2)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument("--trust-config", action="store_true", help="let the run's configuration name code to run")
    args = parser.parse_args(argv)
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        parser.error(f"--score-threshold must lie in 0..1, got {args.score_threshold}")
    if args.worst < 0:
        parser.error(f"--worst must not be negative, got {args.worst}")
    if args.save and os.path.exists(args.save) and not os.path.isdir(args.save):
        parser.error(f"--save must be a folder, got the file {args.save}")
    if not TORCHVISION.fullmatch(args.checkpoint) and not os.path.exists(args.checkpoint):
        parser.error(f"checkpoint {args.checkpoint} does not exist")
    try:
        return args, configure(args)
    except (ConfigError, TypeError) as error:
        parser.error(str(error))


def configure(args: argparse.Namespace) -> TrainConfig:
    """Joins what a run has recorded with what the command line gives, which wins.

    Raises:
        ConfigError: There is no data set, or a setting cannot be meant.
    """
    is_file = os.path.exists(args.checkpoint)
    recorded = (recorded_settings(args.checkpoint) or {}) if is_file else {}
    values: dict[str, Any] = {name: recorded[name] for name in _RECORDED if name in recorded}
    if args.data_path is None or _same_path(args.data_path, recorded.get("data_path")):
        values |= {name: recorded[name] for name in _OF_DATA if name in recorded}
    given = {"data_path": args.data_path, "dataset": args.dataset, "eval_metric": args.metric}
    given |= {"batch_size": args.batch_size, "workers": args.workers}
    values |= {name: value for name, value in given.items() if value is not None}
    if args.dataset_option:
        options = dict(key_value("dataset_options", item) for item in args.dataset_option)
        values["dataset_options"] = {**values.get("dataset_options", {}), **options}
    if "data_path" not in values and values.get("dataset", "auto") == "auto":
        raise ConfigError(f"--data-path must name the data set to evaluate on; {args.checkpoint} has recorded none")
    if args.dataset is None and not args.trust_config:
        reject_code(values.get("dataset", "auto"))
    config = TrainConfig(**with_data_settings(values))
    config.check()
    return config


def _same_path(one: str, other: str | None) -> bool:
    return other is not None and Path(one).resolve() == Path(other).resolve()


@console_program
def main(argv: list[str] | None = None) -> None:
    """Evaluates as the command line says."""
    args, config = parse_args(argv)
    from ssd.engine.checkpoint_evaluation import judge, open_split, save_judged
    from ssd.engine.setup import choose_device
    from ssd.errors import DataError
    from ssd.inference.detector import load

    try:
        device = choose_device(args.device)
        dataset = open_split(config, args.split)
        print(dataset.summary())
        dataset.log.new_entries()  # told by the summary
        judged = judge(load(args.checkpoint, device), dataset, config)
        print(judged)
        if args.json:
            Path(args.json).write_text(json.dumps(judged.as_dict(), indent=2) + "\n", encoding="utf-8")
        if args.save:
            folder = Path(args.save)
            written = save_judged(judged, folder, worst=args.worst, score_threshold=args.score_threshold)
            print(f"{folder}: {', '.join(path.name for path in written)}")
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or args.save or args.json}: {error.strerror or error}")


if __name__ == "__main__":
    main()
