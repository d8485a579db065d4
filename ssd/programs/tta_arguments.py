"""Flags of test-time augmentation, of `ssd eval` and `ssd predict`; torch is imported when they are applied."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssd.inference.detector import Detector


def add_tta_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --tta and --tta-border."""
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


def apply_tta(detector: Detector, args: argparse.Namespace) -> None:
    """Replaces the model of a detector as the flags say.

    Raises:
        ConfigError: The priors are not symmetric.
    """
    if not (args.tta or args.tta_border):
        return
    from ssd.engine.setup import as_config_error
    from ssd.models.extended import extended_averaged
    from ssd.models.flipped import flip_averaged

    with as_config_error(f"{args.checkpoint}: "):
        detector.model = (extended_averaged if args.tta_border else flip_averaged)(detector.model)
