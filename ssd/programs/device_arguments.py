"""The flags --device and --half of several commands; torch is imported when --half is applied."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

HALF_DEFAULT = "bfloat16 on GPUs and CPUs that have instructions for it, else float32"


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --device."""
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1, ... (default: auto)")


def add_half_flag(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds --half and --no-half, where None is the default that is described."""
    parser.add_argument(
        "--half",
        action=argparse.BooleanOptionalAction,
        help="run the network in bfloat16 (float16 on a GPU without bfloat16), or in float32 with --no-half "
        f"(default: {default})",
    )


def half_dtype(half: bool | None, device: torch.device) -> torch.dtype | None:
    """Returns the dtype that the flag asks for, for `ssd.load` and `InferenceEngine`; None without the flag."""
    import torch

    from ssd.engine.step import amp_dtype

    return None if half is None else amp_dtype(device) if half else torch.float32
