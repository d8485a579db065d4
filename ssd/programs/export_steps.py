"""The steps of `ssd export`: write the program, check it, evaluate it, and move it to its place."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from contextlib import redirect_stdout
from functools import partial
from itertools import islice
from pathlib import Path

from torch import Tensor

from ssd.common.errors import ConfigError, DataError
from ssd.config import TrainConfig
from ssd.config.resume_settings import recorded_settings
from ssd.data import DetectionDataset
from ssd.engine.checkpoint_evaluation import evaluate_detector, open_split
from ssd.exporters.calibration import Calibration, is_dataset, of_files, of_training_split, spread_images
from ssd.exporters.check import BATCHES, MIN_FOUND, compare, sample_images
from ssd.exporters.onnx_file import export_onnx
from ssd.exporters.programs import export_aoti, export_pt2
from ssd.exporters.quantize import quantize
from ssd.exporters.running import Program, detect_batches, load_program, network_inputs
from ssd.inference.detector import Detector, load
from ssd.models.folded import folded
from ssd.programs.eval import settings_of


def export(args: argparse.Namespace) -> None:
    """Exports as the command line of `ssd export` says.

    Raises:
        ConfigError: The program differs from the detector, a compiler is missing, or the data set is unknown.
        DataError: The checkpoint or an image cannot be read.
    """
    detector = load(args.checkpoint, "cpu")
    if args.to == "onnx" and args.nms and detector.model.preset.soft_nms_sigma is not None:
        raise ConfigError(
            f"{args.checkpoint} has Soft-NMS (soft_nms_sigma), which ONNX cannot express: export with --no-nms, or --to pt2"
        )
    # Exporting takes minutes: open the user's files before.
    evaluated = open_evaluated(args) if args.eval_data else None
    calibration = calibration_of(detector, args, evaluated[0] if evaluated else None) if args.int8 else None
    images, about = check_images(detector, args, calibration, evaluated) if args.nms and args.check else ([], "")
    path = Path(args.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        written = Path(folder) / path.name
        write(detector, written, args, calibration)
        if args.nms:
            if args.check:
                check(detector, load_program(written, args.to), args, images, about)
            if evaluated is not None:
                evaluate(detector, load_program(written, args.to), *evaluated)
        elif args.check:
            print("not checked: with --no-nms there are no detections")
        os.replace(written, path)
    side = detector.model.image_size
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, images [B, 3, {side}, {side}]")


def calibration_of(detector: Detector, args: argparse.Namespace, evaluated: DetectionDataset | None) -> Calibration:
    """Returns the images that set the ranges of int8: training images if the data set or the run has them."""
    side = detector.model.image_size
    if is_dataset(args.calibration_data):
        return of_training_split(settings(args.checkpoint, "--calibration-data", args.calibration_data), side)
    return of_files(args.calibration_data, side, detector.apply_exif, evaluated)


def write(detector: Detector, path: Path, args: argparse.Namespace, calibration: Calibration | None) -> None:
    """Writes the program of one kind."""
    if args.to == "pt2":
        export_pt2(detector, path)
    elif args.to == "aoti":
        require_compiler()
        export_aoti(detector, path)
    elif calibration is None:
        export_onnx(detector, path, exporter=args.exporter, nms=args.nms)
    else:
        whole = path.with_suffix(".float.onnx")
        plain = Detector(folded(detector.model), detector.classes, detector.apply_exif, detector.thresholds)
        export_onnx(plain, whole, exporter=args.exporter, nms=args.nms)
        count = quantize(whole, path, calibration.images())
        if calibration.skipped:
            number, first = len(calibration.skipped), calibration.first_skipped()
            print(f"warning: {number} calibration images cannot be read and were skipped; the first: {first}")
        print(f"calibrated on {count} {calibration.about}: {whole.stat().st_size / 1e6:.1f} MB as float32")


def require_compiler() -> None:
    """Raises a ConfigError unless there is a C++ compiler, which AOTInductor calls."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name.split()[0]) is None:
        raise ConfigError(f"--to aoti needs a C++ compiler, and {name} was not found: apt install g++, or set CXX")


def check_images(
    detector: Detector,
    args: argparse.Namespace,
    calibration: Calibration | None,
    evaluated: tuple[DetectionDataset, TrainConfig] | None,
) -> tuple[list[Tensor], str]:
    """Returns the images of the check and what they are: of --images, --int8, --eval-data or the run, else drawn ones."""
    side, count = detector.model.image_size, sum(BATCHES)
    images: list[Tensor] = []
    about = "drawn images"
    if args.images:
        images, about = list(network_inputs(args.images, side, detector.apply_exif, count)), f"images of {args.images}"
    elif calibration is not None:
        return list(islice(calibration.images(), count)), "calibration images"
    elif (dataset := evaluated[0] if evaluated else dataset_of_run(args.checkpoint)) is not None:
        images = list(spread_images(dataset, side, count, {}))
        about = f"images of {dataset.name}" if images else about
    # Enough for batches of all sizes; int8 programs are accurate for images like those of the calibration only.
    drawn = [] if args.int8 else sample_images(side)[len(images) :]
    return images + drawn, about + (" and drawn ones" if images and drawn else "")


def dataset_of_run(checkpoint: str) -> DetectionDataset | None:
    """Returns the data set that a run evaluates on; None where there is no run, or its data set cannot be opened."""
    try:
        if not os.path.exists(checkpoint) or recorded_settings(checkpoint) is None:
            return None
        with redirect_stdout(io.StringIO()):  # what it says of splits and faults was said in training
            return open_split(settings_of(checkpoint), None)
    except (ConfigError, DataError, TypeError, OSError):
        return None


def check(detector: Detector, program: Program, args: argparse.Namespace, images: list[Tensor], about: str) -> None:
    """Compares a program with its detector; raises a ConfigError if they differ by too much."""
    result = compare(detector, program, images, args.tolerance)
    print(
        f"check: {result.detections} detections in {result.images} {about}; largest difference {result.difference:.2g} "
        f"(tolerance {args.tolerance:g}); {result.found} of {result.shown} shown ones found by the program"
    )
    if result.detections == 0:
        print("warning: the detector found nothing in these images; --images names others")
    if args.int8:
        if result.found < MIN_FOUND * result.shown:
            raise ConfigError(
                f"the int8 program finds only {result.found} of the {result.shown} detections shown: calibrate with images "
                "like those to detect in (--calibration-data), or use --no-check to write it anyway"
            )
    elif result.difference > args.tolerance:
        raise ConfigError(
            f"the exported program differs from the detector by {result.difference:.2g}, more than the tolerance of "
            f"{args.tolerance:g}; nothing was written (--no-check writes it, --tolerance changes the limit)"
        )


def evaluate(detector: Detector, program: Program, dataset: DetectionDataset, config: TrainConfig) -> None:
    """Prints the AP of detector and program on a data set."""
    print(f"{dataset.name}, {len(dataset)} images, detector and exported program:")
    for detect in (None, partial(detect_batches, program)):
        print(evaluate_detector(detector, dataset, config, detect).result)


def settings(checkpoint: str, flag: str, path: str | None) -> TrainConfig:
    """Returns the settings for a data set; errors name the flag that it was given with."""
    try:
        return settings_of(checkpoint, path)
    except (ConfigError, TypeError) as error:
        raise ConfigError(str(error).replace("--data-path", flag)) from None


def open_evaluated(args: argparse.Namespace) -> tuple[DetectionDataset, TrainConfig]:
    """Opens the data set of --eval-data; returns it with the settings of its evaluation."""
    config = settings(args.checkpoint, "--eval-data", args.eval_data)
    return open_split(config, args.eval_split), config
