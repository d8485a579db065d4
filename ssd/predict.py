"""Detect objects in images with a trained model.

    python ssd/predict.py runs/ssd_tiny-shapes-1 photos/ another.jpg
    python ssd/predict.py SSD300_VGG16_Weights.COCO_V1 photos/

Writes images with drawn detections and detections.json into predictions/. detections.json has for each image its file,
width, height, and a list of {label, score, box: [x1, y1, x2, y2] in pixels}. --save adds CSV or the annotation formats
of COCO, YOLO and PASCAL VOC, which annotation tools and ssd/train.py read:

    python ssd/predict.py runs/x photos/ --save csv,yolo --classes person,car --score-threshold 0.5

The EXIF orientation of images is applied, and boxes refer to the rotated image, unless the model was trained without.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.class_names import display_name
from ssd.console import ArgumentParser, console_program, program_name
from ssd.errors import ConfigError, DataError, unknown
from ssd.file_tree import find_images, walk
from ssd.weight_names import checked_checkpoint

if TYPE_CHECKING:
    from ssd.inference.detector import Detector

FORMATS = ("images", "csv", "coco", "yolo", "voc")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses and checks the command line, without importing torch."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        parser.error(f"--score-threshold must lie in 0..1, got {args.score_threshold}")
    if args.nms_threshold is not None and not 0 <= args.nms_threshold <= 1:
        parser.error(f"--nms-threshold must lie in 0..1, got {args.nms_threshold}")
    args.save = [name for name in args.save.split(",") if name not in ("", "json")]
    for name in args.save:
        if name not in FORMATS:
            parser.error(f"--save: {unknown('format', name, FORMATS)}")
    if args.no_pictures and "images" in args.save:
        args.save.remove("images")
    args.classes = args.classes.split(",") if args.classes is not None else None
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {args.batch_size}")
    try:
        args.checkpoint = checked_checkpoint(args.checkpoint)
    except ConfigError as error:
        parser.error(str(error))
    try:
        args.files = list_images(args.images)
        args.output_dir = choose_folder(args.output_dir, args.overwrite)
    except (DataError, OSError) as error:
        parser.error(str(error))
    return args


def _build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=program_name("predict"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", help="run folder (uses best.pt, else last.pt), checkpoint file, or name of torchvision's weights"
    )
    parser.add_argument("images", nargs="+", help="image files, or folders to search for images")
    parser.add_argument(
        "--output-dir", metavar="DIR", help="output folder (default: predictions, or predictions-2, ... if it exists)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace previous results in --output-dir")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="X",
        help="minimum score of a detection (default: the best threshold of each class in the last evaluation, or 0.4)",
    )
    parser.add_argument("-b", "--batch-size", type=int, default=8, metavar="N", help="images per batch (default: 8)")
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument("--classes", metavar="NAME,...", help="names of the classes to keep (default: all)")
    parser.add_argument(
        "--nms-threshold", type=float, metavar="X", help="IoU threshold of NMS (default: that of the model)"
    )
    parser.add_argument(
        "--save",
        metavar="FORMAT,...",
        default="images",
        help=f"outputs besides detections.json: {', '.join(FORMATS)} (default: images, with drawn detections)",
    )
    parser.add_argument("--no-pictures", action="store_true", help="do not write images with drawn detections")
    return parser


def list_images(names: list[str]) -> list[Path]:
    """Returns the images that files, folders and patterns name, without duplicates.

    Raises:
        DataError: A folder or pattern has no images, or none of the files exists.
    """
    files: dict[Path, None] = {}
    for name in names:
        found = find_images(Path(name))
        files.update(dict.fromkeys(found))
        if os.path.isdir(name) and (others := sum(1 for _ in walk(Path(name))) - len(found)):
            print(f"{name}: {len(found)} images; skipped {others} files of other types")
    if not any(os.path.exists(file) for file in files):
        raise DataError(f"image {names[0][:200]} does not exist")
    return list(files)


def choose_folder(output_dir: str | None, overwrite: bool) -> Path:
    """Returns an empty or new folder for the results; with `overwrite` it may contain previous ones.

    Raises:
        DataError: `output_dir` is a file, or is not empty and `overwrite` is False.
    """
    if output_dir is None:
        number, folder = 1, Path("predictions")
        while folder.exists() and not overwrite and any(folder.iterdir()):
            number += 1
            folder = Path(f"predictions-{number}")
        return folder
    folder = Path(output_dir)
    if os.path.exists(folder) and not folder.is_dir():
        raise DataError(f"--output-dir must be a folder, got the file {folder}")
    if os.path.isdir(folder) and not overwrite and any(folder.iterdir()):
        raise DataError(
            f"--output-dir {folder} is not empty; use another folder, or --overwrite to replace its results"
        )
    return folder


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs the program; exits with 1 if an image could not be read or written."""
    args = parse_args(argv)
    from ssd.engine.setup import choose_device
    from ssd.errors import ConfigError
    from ssd.inference.detector import load

    try:
        detector = load(args.checkpoint, choose_device(args.device))
        for name in args.classes or ():
            if name not in detector.classes:
                raise DataError(f"--classes: {unknown('class', name, detector.classes)}")
        if args.nms_threshold is not None:
            detector.model.preset = replace(detector.model.preset, nms_iou_threshold=args.nms_threshold)
        failed = predict(detector, args)
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or args.output_dir}: {error.strerror or error}")
    if failed:
        sys.exit(f"{failed} of {len(args.files)} images could not be read or written (see above)")


def predict(detector: Detector, args: argparse.Namespace) -> int:
    """Runs the detector on all files and writes the results; returns the number of files that failed.

    detections.json is also written periodically, and if an exception ends the loop.
    """
    from tqdm import tqdm

    from ssd.inference.output import Output

    output = Output(args.output_dir, args.save, detector.classes, args.files)
    if args.score_threshold is None and detector.thresholds:
        scores = [f"{display_name(name)} {score:g}" for name, score in detector.thresholds.items()]
        more = f" and {len(scores) - 20} more" if len(scores) > 20 else ""
        print(f"score thresholds: {', '.join(scores[:20])}{more} (--score-threshold sets one for all classes)")
    failed = 0
    options = {"score_threshold": args.score_threshold, "classes": args.classes, "batch_size": args.batch_size}
    results = detector.stream(args.files, **options)
    try:
        for result in tqdm(results, total=len(args.files), unit="image", mininterval=0.5):
            if (error := output.add(result)) is not None:
                tqdm.write(f"{display_name(str(result.file), 300)}: {error}", file=sys.stderr)
                failed += 1
    finally:
        output.close()
    objects = sum(len(entry["detections"]) for entry in output.entries)
    print(f"{objects} objects in {len(output.entries)} images: {args.output_dir / 'detections.json'}")
    return failed


if __name__ == "__main__":
    main()
