"""Export a trained model: torch.export, AOTInductor (for C++, without Python) or ONNX.

    ssd export runs/ssd_tiny-shapes-1 --to onnx
    ssd export runs/ssd_tiny-shapes-1 model.pt2 --to aoti --images photos/
    ssd export SSD300_VGG16_Weights.COCO_V1 model.onnx
    ssd export runs/x --to onnx --int8 --eval-data bccd

All take images [B, 3, S, S] of any batch size: RGB, float in 0..1 (the model normalizes them). Resize as in training:
the whole image to S x S, bilinear with antialiasing, as PIL's Image.resize with BILINEAR. cv2.resize does not antialias,
which changes the detections in many images.

All return boxes [B, D, 4] (xyxy, normalized), scores [B, D], labels [B, D] (1 is the first class) and counts [B] after
NMS, padded with zeros:

    pt2   runs in PyTorch, in a program that imports ssd_ops
    aoti  compiled for this kind of CPU; runs in LibTorch with libssd_ops.so, or in PyTorch;
          its input is not checked: it must be float32 and contiguous
    onnx  standard operators of ONNX only; --no-nms omits the post-processing (boxes and scores of all priors)

The exported program then runs on images beside the detector; it is written only if no score and no coordinate differs by
more than the tolerance (--no-check skips this). The file contains, as ONNX or AOTInductor metadata or as `classes.json`
in the .pt2: class names, image size, how to resize, whether to apply the EXIF orientation, and the thresholds.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ssd.common.atomic_write import check_writable
from ssd.common.console import ArgumentParser, console_program, program_name
from ssd.common.errors import ConfigError
from ssd.common.packages import is_installed
from ssd.config import flag
from ssd.config.resume_settings import recorded_settings
from ssd.weight_files.names import checked_checkpoint

TOLERANCE = 1e-4  # of scores, and of coordinates as fractions of the image
SUFFIXES = {"pt2": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses and checks the command line, without importing torch."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if args.to is None and args.output is None:
        parser.error("give --to pt2, aoti or onnx, or an output file that ends in .onnx or .pt2")
    if args.to is None:
        args.to = "onnx" if Path(args.output).suffix == ".onnx" else "pt2"
    suffix = SUFFIXES[args.to]
    if args.output is not None and Path(args.output).suffix != suffix:
        expected = f"{suffix} for --to {args.to}" if "--to" in (argv or sys.argv) else ".onnx or .pt2"
        parser.error(f"output must end in {expected}, got {args.output}")
    if args.to != "onnx" and (args.int8 or not args.nms or args.exporter != "dynamo"):
        parser.error("--int8, --no-nms and --exporter are for --to onnx")
    if args.eval_data and not args.nms:
        parser.error("--eval-data needs the post-processing: omit --no-nms")
    if not 0 <= args.tolerance < float("inf"):
        parser.error(f"--tolerance must be a finite number of at least 0, got {args.tolerance:g}")
    for name in ("images", "calibration_data", "eval_data"):
        path = getattr(args, name)
        if path is not None and not os.path.exists(path):
            parser.error(f"{flag(name)}: {path} does not exist")
    try:
        args.checkpoint = checked_checkpoint(args.checkpoint)
        if args.int8 and args.calibration_data is None:
            check_training_data(args.checkpoint)
    except ConfigError as error:
        parser.error(str(error))
    if missing := missing_packages(args):
        hint = ", or use --no-check" if missing == ["onnxruntime"] and not (args.int8 or args.eval_data) else ""
        parser.error(f"missing packages: pip install {' '.join(missing)}{hint}")
    if args.output is None:
        kind = {"pt2": "", "aoti": ".aoti", "onnx": ".int8" if args.int8 else ""}[args.to]
        path = Path(args.checkpoint)
        args.output = (
            (path.resolve().name if path.is_dir() else path.stem if path.exists() else path.name) + kind + suffix
        )
    try:
        check_writable("output", args.output, makes_parents=True)
    except ConfigError as error:
        parser.error(str(error))
    return args


def check_training_data(checkpoint: str) -> None:
    """Raises a ConfigError unless the checkpoint belongs to a run, whose training images can calibrate --int8."""
    if not os.path.exists(checkpoint) or recorded_settings(checkpoint) is None:
        raise ConfigError(
            f"--int8 needs --calibration-data, since {checkpoint} does not record the data set of its run: a data set, of "
            "which training images are used, or a folder of images like those to detect in"
        )


def _build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog=program_name("export"), description=__doc__)
    parser.add_argument(
        "checkpoint", help="run folder (uses best.pt, else last.pt), checkpoint file, or name of torchvision's weights"
    )
    parser.add_argument("output", nargs="?", help="output file, .onnx or .pt2 (default: named after the checkpoint)")
    parser.add_argument("--to", choices=SUFFIXES, help="kind of program (default: by the suffix of the output)")
    parser.add_argument(
        "--exporter",
        choices=("dynamo", "torchscript"),
        default="dynamo",
        help="which of torch's ONNX exporters to use (default: dynamo; torchscript needs no onnxscript)",
    )
    parser.add_argument(
        "--no-nms", dest="nms", action="store_false", help="omit the post-processing, for the NMS of a runtime"
    )
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the program with the detector on images (default: yes)",
    )
    parser.add_argument(
        "--images",
        metavar="PATH",
        help="images of the check (default: 8 of the run's evaluation split, else drawn ones)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help="largest difference of a score, or of a coordinate as a fraction of the image, that the check accepts "
        "(default: 1e-4); with --int8 it instead demands that 90%% of the detections shown are found",
    )
    parser.add_argument("--int8", action="store_true", help="quantize the convolutions to int8 with ONNX Runtime")
    parser.add_argument(
        "--calibration-data",
        metavar="PATH",
        help="at most 100 images that set the ranges of --int8: a folder, or a data set, of which training images are used "
        "(default: training images of the run)",
    )
    parser.add_argument("--eval-data", metavar="PATH", help="data set on which to print the AP of detector and program")
    parser.add_argument("--eval-split", metavar="NAME", help="its split (default: the one that training evaluates on)")
    return parser


def missing_packages(args: argparse.Namespace) -> list[str]:
    """Returns the packages to install for an export."""
    if args.to != "onnx":
        return []
    needed = ["onnx"]
    if args.exporter == "dynamo":
        needed.append("onnxscript")
    if (args.check and args.nms) or args.int8 or args.eval_data:
        needed.append("onnxruntime")
    return [name for name in needed if not is_installed(name)]


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs the program; exits with 1 if the exported program differs from the detector."""
    args = parse_args(argv)
    from ssd.data.faults import DataError
    from ssd.programs.export_steps import export

    try:
        export(args)
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or args.output}: {error.strerror or error}")
