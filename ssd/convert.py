"""Convert a detector's weights from one SSD system's names and orders to another's.

    python ssd/convert.py ssd300_mAP_77.43_v2.pth for_torchvision.pth --to torchvision
    python ssd/convert.py runs/ssd300_vgg16-voc-1/best.pt for_amdegroot.pth --to amdegroot

The input is a state dict, a training checkpoint or a run folder (its best.pt, or else last.pt); its system and its
network are found out. The output is a state dict, in the format of torch.save (.pth, .pt, .bin, .tar) or, with the
package safetensors, as .safetensors.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.console import console_program, program_name

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pth", ".pt", ".bin", ".tar")  # of what torch.save writes
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
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; mistakes are answered before torch is imported."""
    parser = argparse.ArgumentParser(
        prog=program_name("convert"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="checkpoint of any known system, or a run folder")
    parser.add_argument("output", help="file to write")
    parser.add_argument("--to", required=True, choices=SYSTEMS, help="whose names and orders to write")
    parser.add_argument("--system", choices=SYSTEMS, help="whose the input has (default: found out)")
    args = parser.parse_args(argv)
    if not Path(args.input).exists():
        parser.error(f"input {args.input} does not exist")
    output = Path(args.output)
    if output.exists():
        parser.error(f"output {output} exists; remove it first")
    if not output.parent.is_dir():
        parser.error(f"output {output}: there is no folder {output.parent}")
    if output.suffix not in (*SUFFIXES, ".safetensors"):
        parser.error(f"output {output} must end in {', '.join(SUFFIXES)} or .safetensors, which name what is written")
    if output.suffix == ".safetensors" and find_spec("safetensors") is None:
        parser.error(f"output {output}: pip install safetensors, or name a file that ends in .pth")
    return args


@console_program
def main(argv: list[str] | None = None) -> None:
    """Converts as the command line says."""
    args = parse_args(argv)
    from ssd.checkpoints import build_from_weights, export_weights

    try:
        model = build_from_weights(args.input, system=args.system)
        state = export_weights(model, args.to)
        write(state, Path(args.output))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    build = model.build_args
    print(f"{args.output}: {len(state)} weights of {build['name']} with {build['num_classes']} classes for {args.to}")


def write(state: dict[str, Tensor], path: Path) -> None:
    """Writes a state dict in the format that the suffix names."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file  # type: ignore[import-not-found]

        save_file({name: value.contiguous() for name, value in state.items()}, str(path), {"format": "pt"})
        return
    import torch

    torch.save(state, path)


if __name__ == "__main__":
    main()
