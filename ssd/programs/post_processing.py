"""Flags of `ssd eval` and `ssd predict`: test-time augmentation, Soft-NMS; torch is imported when they are applied."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssd.inference.detector import Detector

_SIGMA = 0.3  # of --soft-nms without a value


def add_post_processing_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --tta, --tta-border and --soft-nms."""
    parser.add_argument(
        "--tta",
        action="store_true",
        help="average the outputs over a horizontal flip; takes twice the time; the priors must be symmetric, "
        "as those of SSDlite are and those of ssd300_vgg16 with its default steps are not",
    )
    parser.add_argument(
        "--tta-border",
        action="store_true",
        help="as --tta, and average with detections in the image extended by reflection, for objects that its border "
        "cuts; takes four times the time",
    )
    parser.add_argument(
        "--soft-nms",
        type=_sigma,
        nargs="?",
        const=_SIGMA,
        metavar="SIGMA",
        help="Soft-NMS in place of NMS, for objects that overlap each other: the score of a box that overlaps a detection "
        f"decays by exp(-IoU^2 / SIGMA) (SIGMA without a value: {_SIGMA})",
    )


def _sigma(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"SIGMA must be a number, got {text!r}; write files before --soft-nms"
        ) from None


def apply_post_processing(detector: Detector, args: argparse.Namespace) -> None:
    """Replaces the model of a detector, or its rules, as the flags say.

    Raises:
        ConfigError: The priors are not symmetric, or a value is out of range.
    """
    from ssd.engine.setup import as_config_error
    from ssd.models.extended import extended_averaged
    from ssd.models.flipped import flip_averaged

    if args.soft_nms is not None:
        with as_config_error("--soft-nms: "):
            detector.model.preset = detector.model.preset.replace(soft_nms_sigma=args.soft_nms)
    if args.tta or args.tta_border:
        with as_config_error(f"{args.checkpoint}: "):
            detector.model = (extended_averaged if args.tta_border else flip_averaged)(detector.model)
