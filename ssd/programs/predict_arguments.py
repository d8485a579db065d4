"""Command line of `ssd predict`. Imports no torch, so that invalid arguments are reported at once."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from ssd.common.console import ArgumentParser, program_name
from ssd.common.errors import ConfigError, DataError, unknown
from ssd.common.file_tree import walk
from ssd.inference.parts import drawings, has_parts
from ssd.inference.source_files import find_files, is_list, names_one_video, stream_name
from ssd.programs.device_arguments import HALF_DEFAULT, add_device_flag, add_half_flag
from ssd.programs.post_processing import add_post_processing_flags
from ssd.weight_files.names import checked_checkpoint

FORMATS = ("images", "csv", "coco", "yolo", "voc")


def parse_args(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Parses and checks the command line, without importing torch."""
    parser = _build_parser(description)
    args = parser.parse_args(argv)
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        parser.error(f"--score-threshold must be in 0..1, got {args.score_threshold}")
    if args.nms_threshold is not None and not 0 <= args.nms_threshold <= 1:
        parser.error(f"--nms-threshold must be in 0..1, got {args.nms_threshold}")
    if args.nms_threshold is not None and args.soft_nms is not None:
        parser.error("--nms-threshold cannot be combined with --soft-nms, which has no IoU threshold")
    if args.max_detections is not None and args.max_detections < 1:
        parser.error(f"--max-detections must be at least 1, got {args.max_detections}")
    args.save = [name for name in map(str.strip, args.save.split(",")) if name not in ("", "json")]
    for name in args.save:
        if name not in FORMATS:
            parser.error(f"--save: {unknown('format', name, FORMATS)}")
    if args.no_pictures and "images" in args.save:
        args.save.remove("images")
    args.classes = None if args.classes is None else [name.strip() for name in args.classes.split(",")]
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {args.batch_size}")
    try:
        args.checkpoint = checked_checkpoint(args.checkpoint)
    except ConfigError as error:
        parser.error(str(error))
    args.sources += args.source
    if not args.sources:
        parser.error("give at least one source: an image, a video, a folder, ...")
    if args.tile is not None:
        args.tile = _tile(parser, args.tile)
    try:
        args.rank, args.size = _rank_and_size()
        args.files = list_sources(args.sources, quiet=args.rank > 0)
        args.output_dir = choose_folder(args)
        if args.overwrite:
            _check_overwrite(args.output_dir, args.files if "images" in args.save else [])
    except (DataError, OSError) as error:
        parser.error(str(error))
    return args


def _build_parser(description: str) -> argparse.ArgumentParser:
    parser = ArgumentParser(prog=program_name("predict"), description=description)
    parser.add_argument(
        "checkpoint", help="run folder (uses best.pt, else last.pt), checkpoint file, or name of torchvision's weights"
    )
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="images, videos, folders and further sources, see above"
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="SOURCE",
        help="a source, like the arguments; 0 is the first camera",
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", help="output folder (default: predictions, or predictions-2, ... if it exists)"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--overwrite", action="store_true", help="replace previous results in --output-dir")
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue a stopped command in --output-dir, without the images that are done",
    )
    parser.add_argument(
        "--save",
        metavar="FORMAT,...",
        default="images",
        help=f"outputs besides detections.json: {', '.join(FORMATS)} (default: images, with drawn detections, and videos)",
    )
    parser.add_argument(
        "--no-pictures", action="store_true", help="do not write images and videos with drawn detections"
    )
    _add_detection_flags(parser)
    return parser


def _add_detection_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="X",
        help="minimum score of a detection (default: the best threshold of each class in the last evaluation, or 0.4)",
    )
    parser.add_argument(
        "-b", "--batch-size", type=int, default=8, metavar="N", help="images or tiles per batch (default: 8)"
    )
    add_post_processing_flags(parser)
    add_device_flag(parser)
    add_half_flag(parser, HALF_DEFAULT)
    parser.add_argument("--classes", metavar="NAME,...", help="names of the classes to keep (default: all)")
    parser.add_argument(
        "--nms-threshold",
        type=float,
        metavar="X",
        help="IoU threshold of NMS (default: that of the model, or its Soft-NMS)",
    )
    parser.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="keep the N detections of an image with the highest scores (default: as many as the model has)",
    )
    parser.add_argument(
        "--tile",
        metavar="SIZE[,OVERLAP]",
        help="detect also in overlapping tiles of that many pixels, for small objects in large images; larger ones are "
        "found in the whole image (default: off; OVERLAP: a fifth of SIZE)",
    )


def _tile(parser: argparse.ArgumentParser, text: str) -> tuple[int, int]:
    size, comma, overlap = text.partition(",")
    if not re.fullmatch(r"\d+(,\d+)?", text) or int(size) < 1 or int(overlap or 0) >= int(size):
        parser.error(f"--tile must be SIZE or SIZE,OVERLAP in pixels, with an overlap below the size, got {text}")
    return int(size), int(overlap) if comma else int(size) // 5


def _rank_and_size() -> tuple[int, int]:
    """Returns the rank of this process and the number of processes, from torchrun's environment variables."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise DataError(f"RANK and WORLD_SIZE must be integers with RANK below WORLD_SIZE, got {rank!r} and {size!r}")
    return int(rank), int(size)


def list_sources(names: list[str], *, quiet: bool = False) -> list[str]:
    """Returns the files that files, folders, patterns and lists name, and streams, without duplicates.

    What an earlier command drew into a folder or what a pattern matches is excluded.

    Args:
        names: Sources of the command line.
        quiet: Whether to say nothing about skipped files.

    Raises:
        DataError: A folder or pattern has no images, or none of the files exists.
    """
    files: dict[str, None] = {}
    for name in names:
        found = [file if stream_name(file) else str(Path(file)) for file in find_files(name)]
        kept = found if len(found) == 1 else _without_drawings(found)
        files.update(dict.fromkeys(kept))
        if not quiet and len(kept) < len(found):
            print(f"{name}: without {len(found) - len(kept)} images and videos that an earlier command drew")
        if not quiet and os.path.isdir(name) and (others := sum(1 for _ in walk(Path(name))) - len(found)):
            print(f"{name}: {len(found)} images and videos; skipped {others} files of other types")
    if not any(stream_name(file) or os.path.exists(file) for file in files):
        first, name = next(iter(files), ""), names[0][:200]
        if is_list(name):
            raise DataError(f"list {name}: {first[:200]} does not exist" if files else f"list {name} has no lines")
        raise DataError(f"image {name} does not exist" if files else f"{name} lists no files")
    return list(files)


def _without_drawings(files: list[str]) -> list[str]:
    drawn: dict[str, set[str]] = {}
    for folder in dict.fromkeys(map(os.path.dirname, files)):
        try:
            drawn[folder] = drawings(Path(folder))
        except ValueError:  # a detections.json of another program
            drawn[folder] = set()
    return [file for file in files if os.path.basename(file) not in drawn[os.path.dirname(file)]]


def choose_folder(args: argparse.Namespace) -> Path:
    """Returns an empty or new folder for the results; with --overwrite and --resume it may contain previous ones.

    Raises:
        DataError: --output-dir is a file, has results and none of these flags, or is required.
    """
    if args.output_dir is None:
        if args.size > 1 or args.resume:
            raise DataError(f"--output-dir is required {'with --resume' if args.resume else 'for several processes'}")
        number, folder = 1, Path("predictions")
        while folder.exists() and not args.overwrite and any(folder.iterdir()):
            number += 1
            folder = Path(f"predictions-{number}")
        return folder
    folder = Path(args.output_dir)
    if os.path.exists(folder) and not folder.is_dir():
        raise DataError(f"--output-dir must be a folder, got the file {folder}")
    if args.size > 1 and args.overwrite:
        raise DataError("--overwrite is not possible for several processes; use a new --output-dir")
    if args.resume and not has_parts(folder):
        raise DataError(f"--resume: {folder} has no results of a stopped command")
    # Other processes of the same command may have begun to write.
    continues = args.resume or (args.size > 1 and (folder / "parts").is_dir())
    if os.path.isdir(folder) and not args.overwrite and not continues and any(folder.iterdir()):
        hint = "use another folder, or --overwrite to replace its results"
        if has_parts(folder):
            hint += ", or --resume to continue the stopped command"
        raise DataError(f"--output-dir {folder} is not empty; {hint}")
    return folder


def _check_overwrite(folder: Path, drawn_files: list[str]) -> None:
    """Raises DataError if results would replace a file of the user instead of one of an earlier command."""
    from ssd.inference.formats import OUTPUTS, drawing_name

    if has_parts(folder):
        return  # of a stopped command, whose last drawing is in no part
    existing = set(os.listdir(folder)) if folder.is_dir() else set()
    try:
        existing -= drawings(folder)
        names = () if "detections.json" in existing else OUTPUTS
    except ValueError:  # a detections.json of another program
        names = OUTPUTS
    total = len(drawn_files)
    drawn = (drawing_name(i, total, file, names_one_video(file)) for i, file in enumerate(drawn_files, start=1))
    for name in (*names, *drawn):
        if name in existing:
            raise DataError(
                f"--overwrite: {folder / name} is not a result of an earlier command; use another --output-dir"
            )
