"""The steps of `ssd predict`: run the detector on this process's sources and write the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, tee
from pathlib import Path
from time import monotonic

from ssd.common.class_names import display_name, list_first
from ssd.inference.detector import Detector
from ssd.inference.output import Output
from ssd.inference.result import Result
from ssd.inference.source_files import is_live, is_tar, names_one_video, stream_name
from ssd.inference.sources import ImageFile, Item, images_of

Numbered = tuple[int, str]  # a source and its position in the list of all, from 1


@dataclass(frozen=True)
class Shard:
    """The sources of this process: every `size`-th one."""

    rank: int = 0
    size: int = 1

    def of(self, sources: list[str]) -> list[Numbered]:
        """Returns the sources of this process, with their numbers."""
        return list(enumerate(sources, start=1))[self.rank :: self.size]


def run(detector: Detector, args: argparse.Namespace, shard: Shard) -> int:
    """Runs the detector on the sources of this process and writes the results.

    Args:
        detector: Detector.
        args: Command line; `files` are all sources.
        shard: Selects the sources of this process.

    Returns:
        Number of images that could not be read or written; 0 in a process that others outlast.
    """
    from tqdm import tqdm

    names = ("checkpoint", "score_threshold", "classes", "nms_threshold", "max_detections", "tile", "soft_nms", "half")
    output = Output(
        *(args.output_dir, args.save, detector.classes, len(args.files)),
        rank=shard.rank,
        size=shard.size,
        resume=args.resume or shard.size > 1,
        settings={name: getattr(args, name) for name in names}
        | {name: getattr(args, name) or None for name in ("tta", "tta_border")},
    )
    mine = [(number, name) for number, name in shard.of(args.files) if name not in output.finished]
    if shard.rank == 0:
        _introduce(detector, args, shard, len(output.finished))
    total = None if any(_has_many(name) for _, name in mine) else len(mine)
    bar = tqdm(total=total, unit="image", mininterval=0.5, disable=shard.rank > 0)
    started, complete = monotonic(), False
    try:
        for number, result in _results(detector, args, mine, output):
            bar.update()
            if (error := output.add(number, result)) is not None:
                frame = "" if result.frame is None else f", frame {result.frame}"
                tqdm.write(f"{display_name(str(result.file), 300)}{frame}: {error}", file=sys.stderr)
        complete = True
    except KeyboardInterrupt:
        if not (complete := all(is_live(name) for _, name in mine)):  # the only way to end a live stream
            raise
    finally:
        bar.close()
        totals = output.close(complete)
        if totals is not None:
            rate = output.images / (monotonic() - started)
            speed = f", {rate:.1f} images/s" if output.images and shard.size == 1 else ""
            print(f"{totals[1]} objects in {totals[0]} images{speed}: {args.output_dir / 'detections.json'}")
    return 0 if totals is None else totals[2]


def _introduce(detector: Detector, args: argparse.Namespace, shard: Shard, finished: int) -> None:
    if shard.size > 1:
        print(f"{len(args.files)} files are split among {shard.size} processes")
    if finished:
        print(f"resuming: {finished} files are done")
    if args.score_threshold is None and detector.thresholds:
        scores = [f"{display_name(name)} {score:g}" for name, score in detector.thresholds.items()]
        print(f"score thresholds: {list_first(scores, 20)} (--score-threshold sets one for all classes)")


def _results(
    detector: Detector, args: argparse.Namespace, mine: list[Numbered], output: Output
) -> Iterator[tuple[int, Result]]:
    """Yields the results of numbered sources; a video or tar file has many of one number."""
    options = {name: getattr(args, name) for name in ("score_threshold", "classes", "tile", "max_detections")}
    for has_many, group in groupby(mine, key=lambda source: _has_many(source[1])):
        if not has_many:
            left, right = tee(group)
            images = (ImageFile(Path(name)) for _, name in left)
            results = detector.stream(images, batch_size=args.batch_size, **options)
            yield from zip((number for number, _ in right), results, strict=True)
            continue
        for number, name in group:
            items = (item for item in images_of(name) if not _is_finished(item, output.finished))
            complete = True
            for result in detector.stream(items, batch_size=1 if is_live(name) else args.batch_size, **options):
                complete = complete and result.error is None
                yield number, result
            output.end(number, name, complete and stream_name(name) is None)


def _has_many(name: str) -> bool:
    return names_one_video(name) or is_tar(name)


def _is_finished(item: Item, finished: set[str]) -> bool:
    return isinstance(item, ImageFile) and str(item.file) in finished
