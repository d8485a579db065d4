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

Every flag may come from the config.json of another run instead: `--config runs/NAME/config.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.command_line import parse_args
from ssd.config import TrainConfig


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says."""
    config = parse_args(argv, __doc__ or "")
    from ssd.distributed import end, is_loss_of_contact, plain
    from ssd.training import run  # imports torch: after help and mistakes have been answered

    try:
        run(config)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; --resume with the run folder goes on from the last checkpoint")
    except _expected_errors() as error:
        end(error)
    except RuntimeError as error:
        if is_loss_of_contact(error):
            sys.exit(1)  # the process that ended first has told why
        if (told := plain(error)) is None:
            raise
        end(told)


def _expected_errors() -> tuple[type[Exception], ...]:
    from ssd.config import ConfigError
    from ssd.data import DataError
    from ssd.distributed import TrainingError
    from ssd.models.detector import BatchSizeError

    return ConfigError, DataError, TrainingError, FileNotFoundError, BatchSizeError


__all__ = ["TrainConfig", "main"]

if __name__ == "__main__":
    main()
