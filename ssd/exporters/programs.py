"""Programs that run in PyTorch (torch.export) or in LibTorch without Python (AOTInductor)."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from ssd.exporters.network import DetectorNetwork, describe, metadata
from ssd.inference.detector import Detector


def export_pt2(detector: Detector, path: Path) -> None:
    """Writes a torch.export program, with the result of `describe` as the extra file classes.json."""
    content = io.BytesIO()  # torch's own writer ends the process where the disk is full
    torch.export.save(_program(detector), content, extra_files={"classes.json": json.dumps(describe(detector))})
    path.write_bytes(content.getbuffer())


def export_aoti(detector: Detector, path: Path) -> None:
    """Compiles an AOTInductor package for this machine's kind of CPU, with the result of `describe` as metadata.

    Args:
        detector: Detector on the CPU.
        path: Output file; the suffix must be .pt2.
    """
    configs: dict[str, Any] = {"aot_inductor.metadata": metadata(detector)}
    torch._inductor.aoti_compile_and_package(_program(detector), package_path=str(path), inductor_configs=configs)


def _program(detector: Detector) -> torch.export.ExportedProgram:
    network = DetectorNetwork(detector.model)
    with torch.no_grad():  # AOTInductor compiles no program that tracks gradients
        return torch.export.export(network, network.example(), dynamic_shapes=({0: torch.export.Dim("batch")},))
