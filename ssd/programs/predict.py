"""Detect objects in images and videos with a trained model.

    ssd predict runs/ssd_tiny-shapes-1 photos/ another.jpg clip.mp4
    ssd predict SSD300_VGG16_Weights.COCO_V1 photos/

Sources are images, videos, folders, patterns, tar files, text files with one path per line, cameras (0, /dev/video0) and
network streams (rtsp://...; Ctrl-C ends them). Writes images and videos with drawn detections and detections.json into
predictions/. detections.json has for each image its file, width, height, and a list of {label, score,
box: [x1, y1, x2, y2] in pixels}, and for each frame of a video also its number and time in seconds. --save adds CSV or
the annotation formats of COCO, YOLO and PASCAL VOC, which annotation tools and ssd train read:

    ssd predict runs/x photos/ --save csv,yolo --classes person,car --score-threshold 0.5

The EXIF orientation of images is applied, and boxes refer to the rotated image, unless the model was trained without.
The same applies to the rotation of videos, always.

Small objects in large images are found in tiles of the image, here of 640 pixels that overlap by 128:

    ssd predict runs/x aerial.tif --tile 640,128

Several processes split the sources, also on several machines with a common folder. Each writes a part; the last one
writes detections.json. The same command continues where it was stopped; for one process add --resume:

    torchrun --nproc_per_node 8 -m ssd predict runs/x 'shards/*.tar' --output-dir found --no-pictures
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from ssd.common.console import console_program
from ssd.common.errors import DataError, unknown
from ssd.programs.device_arguments import half_dtype
from ssd.programs.post_processing import apply_post_processing
from ssd.programs.predict_arguments import parse_args


@console_program
def main(argv: list[str] | None = None) -> None:
    """Runs the program; exits with 1 if an image could not be read or written."""
    args = parse_args(argv, __doc__ or "")
    from ssd.common.errors import ConfigError
    from ssd.engine.distributed import World
    from ssd.engine.setup import choose_device
    from ssd.inference.detector import load
    from ssd.programs.predict_steps import Shard, run

    try:
        world = World(args.rank, args.size, int(os.environ.get("LOCAL_RANK", args.rank)))
        device = choose_device(args.device, world)
        detector = load(args.checkpoint, device, half_dtype(args.half, device))
        for name in args.classes or ():
            if name not in detector.classes:
                raise DataError(f"--classes: {unknown('class', name, detector.classes)}")
        if args.nms_threshold is not None:
            detector.model.preset = replace(
                detector.model.preset, nms_iou_threshold=args.nms_threshold, soft_nms_sigma=None
            )
        apply_post_processing(detector, args)
        failed = run(detector, args, Shard(args.rank, args.size))
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or args.output_dir}: {error.strerror or error}")
    if failed:
        sys.exit(f"{failed} of {len(args.files)} images could not be read or written (see above)")
