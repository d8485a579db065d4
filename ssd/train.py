"""Train an SSD object detector.

Without arguments, generate a data set of colored shapes, train a small model on it (a few minutes on two CPU cores) and
write a run folder with metrics, plots, sample detections, checkpoints and the configuration:

    python ssd/train.py

On your own data, the format is detected, and settings are chosen for the data and the machine:

    python ssd/train.py --data-path my_data
    python ssd/train.py --data-path VOC2007 --model ssd300_vgg16 --weights-backbone vgg16_features.pth

Recipes reproduce published results of known SSD systems. Commands for torchvision's references/detection/train.py run
unchanged; --defaults torchvision uses the defaults of that script:

    python ssd/train.py --list-recipes
    python ssd/train.py --config torchvision_ssd300_coco --data-path coco

On several GPUs or CPUs; --batch-size is per process:

    torchrun --nproc_per_node=8 ssd/train.py --config torchvision_ssd300_coco --data-path coco

Ctrl-C and SIGTERM save a checkpoint before the program exits. Resume a run with its own settings, override some of them,
or start a new run with the same settings:

    python ssd/train.py --resume runs/NAME
    python ssd/train.py --resume runs/NAME --epochs 40 --lr 0.0005
    python ssd/train.py --config runs/NAME
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ssd.common.console import console_program
from ssd.config import TrainConfig
from ssd.programs.train_arguments import parse_args


@console_program
def main(argv: list[str] | None = None) -> None:
    """Trains a detector; exits with 1 after an error, with 130 or 143 after Ctrl-C or SIGTERM."""
    config = parse_args(argv, __doc__ or "")
    from ssd.engine.distributed import exit_with_error, is_peer_failure
    from ssd.engine.error_messages import as_user_error
    from ssd.engine.loop import run  # imports torch, which --help and configuration errors do not need
    from ssd.engine.signals import Interrupted

    try:
        folder = run(config)
    except Interrupted as error:
        print(f"\ninterrupted; {error}".rstrip("; "), file=sys.stderr)
        sys.exit(error.code)
    except BrokenPipeError:
        raise
    except Exception as error:
        if is_peer_failure(error):
            sys.exit(1)  # the process that failed has printed the cause
        if (user_error := as_user_error(error)) is None:
            raise
        exit_with_error(user_error)
    if folder.failures:
        sys.exit(f"error: training finished, but {', '.join(folder.failures)} failed (see {folder.path / 'log.txt'})")


__all__ = ["TrainConfig", "main"]

if __name__ == "__main__":
    main()
