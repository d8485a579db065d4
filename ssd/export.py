"""Export a trained model to a file that runs without this package's Python code.

    python ssd/export.py runs/ssd_tiny-shapes-1 model.onnx
    python ssd/export.py runs/ssd_tiny-shapes-1 model.pt2

Both take images [B, 3, S, S], RGB float in 0..1 (normalisation is inside), of any batch size.

model.onnx gives boxes [B, P, 4] (xyxy, 0..1 of the image) and scores [B, P, C] (class 0 is the background), for the NMS of
the runtime that loads it. Needs: pip install onnx onnxscript.
model.pt2 (torch.export) gives boxes [B, D, 4], scores [B, D], labels [B, D] and counts [B] after NMS; whoever loads it
imports ssd_ops first.

The names of the classes and the side S are kept in the file: ONNX metadata, or `classes.json` in the .pt2.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

if TYPE_CHECKING:
    from torch import Tensor

    from ssd.inference import Detector


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; mistakes are answered before torch is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="run folder (its best.pt, or else last.pt) or checkpoint")
    parser.add_argument("output", help="file to write, ending in .onnx or .pt2")
    args = parser.parse_args(argv)
    if not Path(args.checkpoint).exists():
        parser.error(f"checkpoint {args.checkpoint} does not exist")
    if Path(args.output).suffix not in (".onnx", ".pt2"):
        parser.error(f"output must end in .onnx or .pt2, got {args.output}")
    if args.output.endswith(".onnx"):
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            parser.error(f"ONNX needs packages that are missing: pip install {' '.join(missing)}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Exports as the command line says."""
    args = parse_args(argv)
    from ssd.data.faults import DataError
    from ssd.inference import load_detector

    try:
        detector = load_detector(args.checkpoint)
    except DataError as error:
        sys.exit(f"error: {error}")
    path = Path(args.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    (export_onnx if path.suffix == ".onnx" else export_pt2)(detector, path)
    side = detector.model.image_size
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, images [B, 3, {side}, {side}]")


def export_onnx(detector: Detector, path: Path) -> None:
    """Writes the network, softmax and box decoding as ONNX, with `classes` (JSON) and `image_size` as metadata."""
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
    program.model.metadata_props["classes"] = json.dumps(list(detector.classes))
    program.model.metadata_props["image_size"] = str(model.image_size)
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
    about = json.dumps({"classes": list(detector.classes), "image_size": model.image_size})
    torch.export.save(program, path, extra_files={"classes.json": about})


def _example(detector: Detector) -> Tensor:
    import torch

    size = detector.model.image_size
    return torch.zeros(2, 3, size, size)  # one image would be taken for a constant


if __name__ == "__main__":
    main()
