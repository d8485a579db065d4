"""Export a trained model to ONNX or torch.export (.pt2).

    python ssd/export.py runs/ssd_tiny-shapes-1 model.onnx
    python ssd/export.py runs/ssd_tiny-shapes-1 model.pt2
    python ssd/export.py SSD300_VGG16_Weights.COCO_V1 model.onnx

Both take images [B, 3, S, S] of any batch size: RGB, float in 0..1 (the model normalizes them). Resize as in training:
the whole image to S x S, bilinear with antialiasing, as PIL's Image.resize with BILINEAR. cv2.resize does not antialias,
which changes the detections in many images.

model.onnx returns boxes [B, P, 4] (xyxy, normalized) and scores [B, P, C] (class 0 is background); apply the NMS of your
runtime to them. To export it: pip install onnx onnxscript.
model.pt2 returns boxes [B, D, 4], scores [B, D], labels [B, D] and counts [B] after NMS; it runs in PyTorch, in a
program that imports ssd_ops.

The file contains, as ONNX metadata or as `classes.json` in the .pt2: class names, image size, how to resize, whether to
apply the EXIF orientation, and the thresholds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.console import ArgumentParser, console_program, program_name
from ssd.errors import ConfigError
from ssd.weight_names import checked_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from ssd.inference.detector import Detector


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses and checks the command line, without importing torch."""
    parser = ArgumentParser(
        prog=program_name("export"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", help="run folder (uses best.pt, else last.pt), checkpoint file, or name of torchvision's weights"
    )
    parser.add_argument("output", help="output file, with the suffix .onnx or .pt2")
    args = parser.parse_args(argv)
    try:
        args.checkpoint = checked_checkpoint(args.checkpoint)
    except ConfigError as error:
        parser.error(str(error))
    if Path(args.output).suffix not in (".onnx", ".pt2"):
        parser.error(f"output must end in .onnx or .pt2, got {args.output}")
    if args.output.endswith(".onnx"):
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            parser.error(f"ONNX export needs missing packages: pip install {' '.join(missing)}")
    return args


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs the program."""
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
    """Returns what a runtime needs to know besides the network: classes, preprocessing and thresholds."""
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
            zip(detector.classes, detector.score_thresholds(), strict=True)
        ),  # lowest score to show, by class
    }


def export_onnx(detector: Detector, path: Path) -> None:
    """Writes the network, softmax and box decoding as ONNX, with the result of `describe` as metadata (JSON)."""
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
            # The reference consists of operators that ONNX supports; the compiled op is not one of them.
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
    """Writes the network and the post-processing as a torch.export program, with the result of `describe`."""
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
    return torch.zeros(2, 3, size, size)  # torch.export specializes on a batch size of 1


if __name__ == "__main__":
    main()
