"""Train an SSD detector.

With no arguments: draws a data set of shapes, trains a small model on it and leaves a run folder with metrics, curves,
pictures of detections, the checkpoint and the exact configuration. A few minutes on two CPU cores:

    python ssd/train.py

On real data (see README.md for what these reach):

    python ssd/train.py --dataset voc --data-path VOC2007 --model ssd300_vgg16 --weights-backbone vgg16_features.pth
    python ssd/train.py --dataset coco --data-path coco --model ssdlite320_mobilenet_v2 --amp --device cuda

Every flag may come from the config.json of another run instead: `--config runs/NAME/config.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.config import TrainConfig, parse_args


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says."""
    config = parse_args(argv, __doc__ or "")
    from ssd.training import run  # imports torch: after help and mistakes have been answered

    try:
        run(config)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; --resume with the run folder goes on from the last checkpoint")
    except _expected_errors() as error:
        sys.exit(f"error: {error}")


def _expected_errors() -> tuple[type[Exception], ...]:
    from ssd.config import ConfigError
    from ssd.data import DataError
    from ssd.training import TrainingError

    return ConfigError, DataError, TrainingError, FileNotFoundError


__all__ = ["TrainConfig", "main"]

if __name__ == "__main__":
    main()
