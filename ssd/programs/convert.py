"""Convert the weights of a detector from the format of one SSD system to that of another.

    ssd convert ssd300_mAP_77.43_v2.pth for_torchvision.pth --to torchvision
    ssd convert runs/ssd300_vgg16-voc-1/best.pt for_amdegroot.pth --to amdegroot

The input is a state dict, a training checkpoint or a run folder (uses best.pt, else last.pt); its system and network are
detected. The output is a state dict, written by torch.save (.pth, .pt, .bin, .tar) or safetensors (.safetensors), an
archive of NumPy arrays (.npz), or Caffe's format (.caffemodel). With --to ssd, .safetensors and torch.save also keep the
class names, the score thresholds and how to build the model, so that every program reads the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd.common.console import ArgumentParser, console_program, program_name
from ssd.common.errors import ConfigError, DownloadError
from ssd.common.packages import is_installed
from ssd.weight_files.names import checked_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pth", ".pt", ".bin", ".tar")  # written by torch.save
PACKAGES = {".safetensors": "safetensors", ".caffemodel": "protobuf"}  # package that each of the other formats needs
SYSTEMS = (
    "ssd",
    "torchvision",
    "amdegroot",
    "vgg16_reducedfc",
    "nvidia",
    "qfgaohao",
    "lufficc",
    "lufficc_v1",
    "caffe",
    "sgrvinod",
    "balancap",
    "tensorflow",
    "dusty_nv",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses and checks the command line, without importing torch."""
    parser = ArgumentParser(prog=program_name("convert"), description=__doc__)
    parser.add_argument("input", help="checkpoint of any supported system, or run folder")
    parser.add_argument("output", help="output file")
    parser.add_argument("--to", required=True, choices=SYSTEMS, help="system of the output")
    parser.add_argument("--system", choices=SYSTEMS, help="system of the input (default: auto-detect)")
    args = parser.parse_args(argv)
    try:
        args.input = checked_checkpoint(args.input)
    except ConfigError as error:
        parser.error(str(error).replace("checkpoint", "input", 1))
    output = Path(args.output)
    if output.exists():
        parser.error(f"output {output} already exists; remove it first")
    if not output.parent.is_dir():
        parser.error(f"output {output}: folder {output.parent} does not exist")
    if output.suffix not in (*SUFFIXES, *PACKAGES, ".npz"):
        parser.error(f"output {output} must end in {', '.join((*SUFFIXES, *PACKAGES))} or .npz")
    if output.suffix == ".caffemodel" and args.to != "caffe":
        parser.error(f"output {output} needs --to caffe: Caffe has no other names")
    package = PACKAGES.get(output.suffix)
    if package is not None and not is_installed("google.protobuf" if package == "protobuf" else package):
        parser.error(f"output {output} needs the package {package}: pip install {package}, or write a .pth file")
    return args


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs the program."""
    args = parse_args(argv)
    from ssd.checkpoints import build_from_weights, export_weights
    from ssd.checkpoints.reading import read_checkpoint

    try:
        checkpoint = read_checkpoint(args.input)
        model = build_from_weights(checkpoint, system=args.system)
        state = export_weights(model, args.to)
        about = {"build_args": model.build_args, **checkpoint.about} if args.to == "ssd" else {}
        write(state, about, Path(args.output))
    except (ValueError, OSError, DownloadError) as error:
        sys.exit(f"error: {error}")
    build = model.build_args
    print(f"{args.output}: {len(state)} weights of {build['name']} with {build['num_classes']} classes for {args.to}")


def write(state: dict[str, Tensor], about: dict[str, Any], path: Path) -> None:
    """Writes a state dict in the format of the suffix, with what is to be saved beside it where the format can."""
    if path.suffix == ".safetensors":
        from ssd.weight_files.safetensors_files import write_safetensors

        write_safetensors(state, about, path)
        return
    if path.suffix == ".npz":
        from ssd.weight_files.tensorflow_files import write_npz

        write_npz(state, path)
        return
    if path.suffix == ".caffemodel":
        from ssd.weight_files.protobuf_files import write_caffemodel

        write_caffemodel({name: value.cpu().numpy() for name, value in state.items()}, path)
        return
    import torch

    from ssd.common.atomic_write import write_atomically

    write_atomically(path, lambda file: torch.save({"model": state, **about} if about else state, file))
