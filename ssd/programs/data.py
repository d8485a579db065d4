"""Commands for data sets in any supported format.

    ssd data check FOLDER
    ssd data review runs/NAME
    ssd data pack FOLDER OUTPUT

check decodes every image and checks every box. It reports faults with file and line or object, duplicates and images in
two splits, EXIF orientations, wrong box formats or units, class ids off by one, and objects that no prior matches.
review lists annotations that a trained detector disagrees with. pack writes tar files and arrays for large data sets.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from ssd.common.atomic_write import WriteError, check_writable, write_text
from ssd.common.console import ArgumentParser, console_program, program_name
from ssd.common.errors import ConfigError, DataError
from ssd.config import TrainConfig, check_settings, flag
from ssd.config.choices import FILE_DATASETS, MODELS
from ssd.programs.data_review import ABOUT, add_arguments, check_arguments
from ssd.programs.train_arguments import key_value, with_data_settings

_CHECK = """Check a data set: decodes every image and checks every box.

Exits with 0 if there are no problems (warnings are allowed), else with 1.

--fix drops unreadable images, boxes without area, and duplicate images and objects (an image in two splits is dropped
from the training split), clips boxes to their image, and stores images with an EXIF orientation rotated, in the
coordinates of their boxes. Difficult objects become crowds, which are ignored as well.
"""

_PACK = """Write a data set as tar files in the layout of webdataset, with the annotations in arrays.

Training on OUTPUT starts at once with millions of images, and its processes share the annotations in memory; images are
read from the tar files, in any order. Each image in a tar file is followed by a JSON file with its annotations.
"""


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, TrainConfig]:
    """Parses and checks the command line, without importing torch."""
    parser = ArgumentParser(prog=program_name("data"), description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    texts = {
        "check": ("check images, boxes, splits and priors", _CHECK),
        "review": ("list annotations that a trained detector disagrees with", ABOUT),
        "pack": ("write tar files and arrays for large data sets", _PACK),
    }
    parsers = {name: commands.add_parser(name, help=words, description=about) for name, (words, about) in texts.items()}
    _add_check_arguments(parsers["check"])
    add_arguments(parsers["review"])
    _add_source(parsers["pack"])
    parsers["pack"].add_argument("output", metavar="OUTPUT", help="new or empty folder to write to")
    parsers["pack"].add_argument(
        "--shard-mb", type=int, default=1000, metavar="N", help="size of a tar file in MB (default: 1000)"
    )
    parsers["pack"].add_argument(
        "--no-images", action="store_true", help="write the annotations only; images stay where they are"
    )
    args = parser.parse_args(argv)
    try:
        return args, check_arguments(args) if args.command == "review" else _settings(args)
    except (ConfigError, TypeError) as error:
        parsers[args.command].error(str(error))


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data_path", metavar="FOLDER", help="folder of the data set, or its data.yaml, JSON or CSV file"
    )
    parser.add_argument(
        "--dataset", choices=("auto", *FILE_DATASETS), default="auto", help="format (default: auto-detect)"
    )
    parser.add_argument(
        "--dataset-option", action="append", metavar="KEY=VALUE", help="option of its reader, repeatable"
    )
    parser.add_argument("--splits", nargs="+", default=[], metavar="SPLIT", help="splits to read (default: all)")


def _add_check_arguments(check: argparse.ArgumentParser) -> None:
    _add_source(check)
    check.add_argument(
        "--model", choices=MODELS, help="model whose priors are checked (default: the one that training chooses)"
    )
    check.add_argument(
        "--image-size", type=int, metavar="N", help="input size of the model (default: what training chooses)"
    )
    check.add_argument("--no-priors", action="store_true", help="do not check priors")
    check.add_argument("--json", metavar="FILE", help="JSON file for all findings")
    check.add_argument("--pictures", metavar="FOLDER", help="draw label statistics, unmatched objects and duplicates")
    check.add_argument(
        "--fix", metavar="FOLDER", help="write a repaired copy here, as COCO files; the original is only read"
    )
    check.add_argument("-j", "--workers", type=int, help="threads that decode images (default: one for each core)")


def _settings(args: argparse.Namespace) -> TrainConfig:
    for name in ("workers", "image_size", "shard_mb"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise ConfigError(f"{flag(name)} must be at least 1, got {value}")
    values: dict[str, Any] = {"data_path": args.data_path, "dataset": args.dataset}
    values |= {name: getattr(args, name) for name in ("model", "image_size") if getattr(args, name, None) is not None}
    options = dict(key_value("dataset_options", item) for item in args.dataset_option or ())
    if not os.path.exists(args.data_path):
        raise ConfigError(f"{args.data_path}: there is no such folder or file")
    config = TrainConfig.of(with_data_settings({**values, "dataset_options": options}))
    check_settings(config)
    return config


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs the command; `check` exits with 1 after problems."""
    args, config = parse_args(argv)
    try:
        if args.command == "review":
            from ssd.programs.data_review import run

            run(args, config)
        elif args.command == "pack":
            _pack(args, config)
        else:
            sys.exit(1 if _check(args, config) else 0)
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        named = error.filename or getattr(args, "output", None) or args.fix or args.pictures or args.data_path
        sys.exit(f"error: {error}" if isinstance(error, WriteError) else f"error: {named}: {error.strerror or error}")


def _pack(args: argparse.Namespace, config: TrainConfig) -> None:
    from ssd.data.formats.shard_files import read_index
    from ssd.data.pack import pack
    from ssd.data_check.splits import open_all

    datasets, _ = open_all(config.dataset, str(config.data_path), tuple(args.splits), config.dataset_options)
    options = {"shard_bytes": args.shard_mb * 1_000_000, "images": not args.no_images}
    root = Path(str(config.data_path))
    dataset_format = read_index(root)["format"] if config.dataset == "shards" else config.dataset
    lines = pack(datasets, Path(args.output), root, dataset_format, **options)
    print(*lines, sep="\n")


def _check(args: argparse.Namespace, config: TrainConfig) -> bool:
    """Runs the check; returns whether there are problems."""
    from ssd.common.cores import usable_cores
    from ssd.data_check.repair import check_target, write_repaired
    from ssd.programs.data_check import check_data

    for name in ("json", "pictures", "fix"):
        if getattr(args, name):
            check_writable(f"--{name}", getattr(args, name), is_folder=name != "json")
    if args.fix:
        check_target(Path(args.fix), Path(args.data_path))
    report = check_data(config, tuple(args.splits), args.workers or usable_cores(), with_priors=not args.no_priors)
    print(report)
    if args.json:
        write_text(Path(args.json), json.dumps(report.as_dict(), indent=1) + "\n")
    if args.pictures:
        from ssd.data_check.figures import save_figures

        print(*save_figures(report, Path(args.pictures)), sep="\n")
    if args.fix:
        print(write_repaired(report, Path(args.fix)))
    return report.has_problems
