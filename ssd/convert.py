"""Convert a detector's weights from one SSD system's names and orders to another's.

    python ssd/convert.py ssd300_mAP_77.43_v2.pth for_torchvision.pth --to torchvision
    python ssd/convert.py runs/ssd300_vgg16-voc-1/best.pt for_amdegroot.pth --to amdegroot

The input is a state dict or a training checkpoint; its system and its network are found out. The output is a state dict.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

SYSTEMS = ("ssd", "torchvision", "amdegroot", "vgg16_reducedfc", "nvidia", "qfgaohao", "lufficc", "caffe", "sgrvinod")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; mistakes are answered before torch is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="checkpoint of any known system")
    parser.add_argument("output", help="file to write")
    parser.add_argument("--to", required=True, choices=SYSTEMS, help="whose names and orders to write")
    parser.add_argument("--system", choices=SYSTEMS, help="whose the input has (default: found out)")
    args = parser.parse_args(argv)
    if not Path(args.input).is_file():
        parser.error(f"input {args.input} does not exist")
    if Path(args.output).exists():
        parser.error(f"output {args.output} exists; remove it first")
    return args


def main(argv: list[str] | None = None) -> None:
    """Converts as the command line says."""
    args = parse_args(argv)
    import torch

    from ssd.checkpoints import build_from_weights, export_weights

    try:
        model = build_from_weights(args.input, system=args.system)
        state = export_weights(model, args.to)
    except ValueError as error:
        sys.exit(f"error: {error}")
    torch.save(state, args.output)
    build = model.build_args
    print(f"{args.output}: {len(state)} weights of {build['name']} with {build['num_classes']} classes for {args.to}")


if __name__ == "__main__":
    main()
