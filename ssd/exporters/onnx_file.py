"""ONNX files, by both of torch's exporters."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from ssd.exporters.network import DETECTIONS, INPUT, RAW, DetectorNetwork, metadata
from ssd.inference.detector import Detector

OPSET = 18  # the lowest that torch's newer exporter writes without conversion


def export_onnx(detector: Detector, path: Path, *, exporter: str = "dynamo", nms: bool = True) -> None:
    """Writes a detector as ONNX, in standard operators only, with the result of `describe` as metadata (JSON).

    Args:
        detector: Detector on the CPU.
        path: Output file.
        exporter: "dynamo" (by torch.export, needs onnxscript) or "torchscript" (by tracing, needs onnx alone).
        nms: Whether the file contains the post-processing; if not, it returns all boxes and scores.
    """
    import onnx

    network = DetectorNetwork(detector.model, nms)
    outputs = list(DETECTIONS if nms else RAW)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the deprecated exporter and names of dimensions
        if exporter == "dynamo":
            program = torch.onnx.export(
                network,
                network.example(),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            assert program is not None
            program.save(path)
        else:
            torch.onnx.export(
                network,
                network.example(),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in (INPUT, *outputs)},
            )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, metadata(detector))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
