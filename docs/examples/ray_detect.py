"""Detect objects in many images on a Ray cluster, or on the CPUs or GPUs of one machine.

    pip install "ray[data]"
    python docs/examples/ray_detect.py runs/NAME photos/ found/ --workers 4 --gpus 1

Ray Data keeps one detector in each worker, hands it batches of paths, moves work between machines and repeats what a lost
machine had begun. All workers must see the images and the checkpoint under the same paths.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np


class DetectBatches:
    """A detector for `ray.data.Dataset.map_batches`: loaded once in each worker, called with batches of paths.

    Args:
        checkpoint: Argument of `ssd.load`.
        **options: Options of `Detector.stream`, such as score_threshold, batch_size and tile.
    """

    def __init__(self, checkpoint: str, **options: Any) -> None:
        import ssd

        self.detector = ssd.load(checkpoint)
        self.options = options

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the column `file` with `result`, the JSON of each image, and `error`, why it could not be read."""
        results = list(self.detector.stream([Path(file) for file in batch["file"]], **self.options))
        texts = ["" if result.error else result.to_json() for result in results]
        return {
            "file": batch["file"],
            "result": np.array(texts, dtype=object),
            "error": np.array([result.error or "" for result in results], dtype=object),
        }


def detect(checkpoint: str, files: list[str], workers: int = 1, gpus: float = 0, **options: Any) -> Any:
    """Returns a lazy `ray.data.Dataset` with one row per file."""
    import ray.data

    return ray.data.from_items([{"file": file} for file in files], override_num_blocks=4 * workers).map_batches(
        DetectBatches,
        fn_constructor_args=(checkpoint,),
        fn_constructor_kwargs=options,
        batch_size=32,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus,
    )


def main() -> None:
    """Writes lines of JSON into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each worker")
    args = parser.parse_args()
    from ssd.common.file_tree import images_below

    files = [str(path.resolve()) for path in images_below(args.images)]
    args.output.mkdir(parents=True)
    with open(args.output / "detections.jsonl", "w", encoding="utf-8") as file:
        for row in detect(str(Path(args.checkpoint).resolve()), files, args.workers, args.gpus).iter_rows():
            file.write((row["result"] or json.dumps({"file": row["file"], "error": row["error"]})) + "\n")


if __name__ == "__main__":
    main()
