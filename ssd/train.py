"""Train an SSD detector.

With no arguments: draws a data set of shapes, trains a small model on it and leaves a run folder with metrics, curves,
pictures of detections, the checkpoint and the exact configuration. A few minutes on two CPU cores:

    python ssd/train.py

On real data: a recipe, that is the settings with which a known system reached a known result, or flags of your own.
Commands for torchvision's references/detection/train.py run as they stand; settings that neither names are that
script's.

    python ssd/train.py --list-recipes
    python ssd/train.py --config torchvision_ssd300_coco --data-path coco
    python ssd/train.py --dataset voc --data-path VOC2007 --model ssd300_vgg16 --weights-backbone vgg16_features.pth

On many GPUs or CPUs, --batch-size counting the images of each process:

    torchrun --nproc_per_node=8 ssd/train.py --config torchvision_ssd300_coco --data-path coco

Ctrl-C and SIGTERM save where training is; a kill costs at most --save-minutes. A run goes on from its folder, with its
own settings and what is given beside it; with those settings a new run begins:

    python ssd/train.py --resume runs/NAME
    python ssd/train.py --resume runs/NAME --epochs 40 --lr 0.0005
    python ssd/train.py --config runs/NAME
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.command_line import parse_args
from ssd.config import TrainConfig
from ssd.console import console_program


@console_program
def main(argv: list[str] | None = None) -> None:
    """Train as the command line says; exits with 1 after an error, with 130 or 143 where a signal ended training."""
    config = parse_args(argv, __doc__ or "")
    from ssd.engine.distributed import end, is_loss_of_contact, plain
    from ssd.engine.loop import run  # imports torch: after help and mistakes have been answered
    from ssd.engine.signals import Interrupted

    try:
        folder = run(config)
    except Interrupted as error:
        print(f"\ninterrupted; {error}".rstrip("; "), file=sys.stderr)
        sys.exit(error.code)
    except BrokenPipeError:
        raise
    except Exception as error:
        if is_loss_of_contact(error):
            sys.exit(1)  # the process that ended first has told why
        if (told := plain(error)) is None:
            raise
        end(told)
    if folder.failures:
        sys.exit(f"error: training is done, but {', '.join(folder.failures)} failed (see {folder.path / 'log.txt'})")


__all__ = ["TrainConfig", "main"]

if __name__ == "__main__":
    main()
