"""Export a trained model to a file for other runtimes.

    python ssd/export.py runs/ssd_tiny-shapes-1 model.onnx
    python ssd/export.py runs/ssd_tiny-shapes-1 model.pt2
    python ssd/export.py SSD300_VGG16_Weights.COCO_V1 model.onnx

Both take images [B, 3, S, S], RGB float in 0..1 (normalization is inside), of any batch size. Resize as in training: the
whole picture to S x S, bilinear with antialiasing, as PIL's Image.resize does with BILINEAR. cv2.resize has no
antialiasing, and finds other objects in many pictures.

model.onnx gives boxes [B, P, 4] (xyxy, 0..1 of the image) and scores [B, P, C] (class 0 is the background), for the NMS of
the runtime that loads it; it needs no Python. To write it: pip install onnx onnxscript.
model.pt2 (torch.export) gives boxes [B, D, 4], scores [B, D], labels [B, D] and counts [B] after NMS; it runs in PyTorch,
in a program that has imported ssd_ops.

What the file needs to be used is kept in it, as ONNX metadata or `classes.json` in the .pt2: the names of the classes,
the side S, how to resize, whether photographs are turned as EXIF says, and the thresholds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.console import console_program, program_name
from ssd.predict import TORCHVISION

if TYPE_CHECKING:
    from torch import Tensor

    from ssd.inference.detector import Detector


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; mistakes are answered before torch is imported."""
    parser = argparse.ArgumentParser(
        prog=program_name("export"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", help="run folder (its best.pt, or else last.pt), checkpoint, or a name of torchvision's weights"
    )
    parser.add_argument("output", help="file to write, ending in .onnx or .pt2")
    args = parser.parse_args(argv)
    if not TORCHVISION.fullmatch(args.checkpoint) and not os.path.exists(args.checkpoint):
        parser.error(f"checkpoint {args.checkpoint} does not exist")
    if Path(args.output).suffix not in (".onnx", ".pt2"):
        parser.error(f"output must end in .onnx or .pt2, got {args.output}")
    if args.output.endswith(".onnx"):
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            parser.error(f"ONNX needs packages that are missing: pip install {' '.join(missing)}")
    return args


@console_program
def main(argv: list[str] | None = None) -> None:
    """Exports as the command line says."""
    args = parse_args(argv)
    from ssd.data.faults import DataError
    from ssd.inference.detector import load

    try:
        detector = load(args.checkpoint, "cpu")
    except DataError as error:
        sys.exit(f"error: {error}")
    path = Path(args.output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (export_onnx if path.suffix == ".onnx" else export_pt2)(detector, path)
    except OSError as error:
        sys.exit(f"error: {path}: {error.strerror or error}")
    side = detector.model.image_size
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, images [B, 3, {side}, {side}]")


def describe(detector: Detector) -> dict[str, Any]:
    """What a runtime must know besides the network."""
    rules = detector.model.preset
    return {
        "classes": list(detector.classes),
        "image_size": detector.model.image_size,
        "resize": "whole image to image_size x image_size, bilinear, antialiased",
        "color": "RGB in 0..1",
        "apply_exif": detector.apply_exif,
        "score_threshold": rules.score_threshold,  # before NMS
        "nms_iou_threshold": rules.nms_iou_threshold,
        "candidates_per_class": rules.candidates_per_class,
        "max_detections": rules.max_detections,
        "show_from": dict(
            zip(detector.classes, detector.lowest_scores(), strict=True)
        ),  # lowest score to show, by class
    }


def export_onnx(detector: Detector, path: Path) -> None:
    """Writes the network, softmax and box decoding as ONNX, with what `describe` says as metadata (JSON)."""
    import torch
    from torch import nn

    from ssd_ops import reference

    model = detector.model

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            loc, logits = model.forward_raw(model.normalize(images))
            # the reference: ONNX knows the functions that it is made of, and not our op
            boxes = reference.decode_boxes(loc, model.priors, variances=model.preset.variances)
            return (boxes.clamp(0, 1) if model.preset.clip_boxes else boxes), logits.softmax(dim=-1)

    program = torch.onnx.export(
        Network().eval(),
        (_example(detector),),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["boxes", "scores"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    for key, value in describe(detector).items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    program.save(path)


def export_pt2(detector: Detector, path: Path) -> None:
    """Writes the network and the whole post-process as a torch.export program, with the class names beside it."""
    import torch
    from torch import nn

    model = detector.model

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            found = model.detect(*model.forward_raw(model.normalize(images)))
            return found.boxes, found.scores, found.labels, found.counts

    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Network().eval(), (_example(detector),), dynamic_shapes=shapes)
    torch.export.save(program, path, extra_files={"classes.json": json.dumps(describe(detector))})


def _example(detector: Detector) -> Tensor:
    import torch

    size = detector.model.image_size
    return torch.zeros(2, 3, size, size)  # one image would be taken for a constant


if __name__ == "__main__":
    main()
