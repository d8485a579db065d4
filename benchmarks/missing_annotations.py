"""AP and recall where annotations are missing, measured on annotations that were completed later.

    python benchmarks/missing_annotations.py --completed bccd_completed --original bccd --weights-backbone FILE --seed 0

Both data sets (VOC) have the same images, --original perhaps more. Trains the recipe bccd on the original annotations of
the training images of --completed (with --all-images of those of --original), evaluates on the val images of --completed,
and reviews their original annotations with the detector: by how many of the objects that only --completed has are found,
at which precision. Each variant prints one line of JSON; `--variants` selects.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
COMPLETED = "completed by review"  # two trainings, the second one on what a review with the first one completes
VARIANTS = {  # name -> flags of the training
    "as annotated": "",
    "ignore": "--ignore-unlabeled 0.3",
    "ignore and label": "--ignore-unlabeled 0.3 --label-unlabeled 0.7",
    COMPLETED: "--ignore-unlabeled 0.3 --label-unlabeled 0.7",
}
FIRST, SECOND = 0.4, 0.8  # fractions of --epochs of these two
COVERED, FOUND = 0.4, 0.5  # IoU from which an object was annotated before; from which a finding is an object


def annotated_as(original: Path, completed: Path, folder: Path) -> None:
    """Writes the data set `completed` with the annotations of the training images of `original`."""
    for file in filter(Path.is_file, completed.rglob("*")):
        copy = folder / file.relative_to(completed)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    for name in next(folder.glob("ImageSets/**/train.txt")).read_text().split():
        shutil.copyfile(original / "Annotations" / f"{name}.xml", folder / "Annotations" / f"{name}.xml")


def missing_objects(original: Path, completed: Path, split: str) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Returns for each image class and box of the objects that no original annotation covers."""
    from ssd.data.registry import open_dataset
    from ssd.evaluate.records import box_iou

    after = open_dataset("voc", str(completed), split)
    missing = {}
    for index in range(len(after)):
        file = Path(str(after.annotations.files[index]))
        before = _boxes(original / "Annotations" / f"{file.stem}.xml")
        target = after.target(index)
        boxes = target["boxes"].double().numpy()
        new = box_iou(boxes, before).max(axis=1, initial=0.0) < COVERED
        names = [after.classes[label - 1] for label in target["labels"].tolist()]
        missing[file.stem] = [(name, box) for name, box, is_new in zip(names, boxes, new, strict=True) if is_new]
    return missing


def _boxes(file: Path) -> np.ndarray:
    from xml.etree import ElementTree

    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = [[float(box.findtext(key, "nan")) for key in corners] for box in ElementTree.parse(file).iter("bndbox")]
    return np.array(boxes).reshape(-1, 4)


def recall_at(
    precision: float,
    findings: list[dict[str, Any]],
    missing: dict[str, list[tuple[str, np.ndarray]]],
    names: Collection[str],
) -> float:
    """Returns the recall of missing objects by the most certain findings, as many as keep the precision.

    Args:
        precision: The least precision.
        findings: Those of the kind "unlabeled" of review.json.
        missing: Result of `missing_objects`; each object is found once.
        names: The classes to count.
    """
    from ssd.evaluate.records import box_iou

    left = {image: [item for item in objects if item[0] in names] for image, objects in missing.items()}
    total, hits, best = sum(map(len, left.values())), 0, 0
    ranked = sorted((f for f in findings if f["class"] in names), key=lambda found: -found["score"])
    for rank, finding in enumerate(ranked, start=1):
        objects = left[Path(finding["file"]).stem]
        same = [i for i, (name, _) in enumerate(objects) if name == finding["class"]]
        box = np.array([finding["box"]])
        overlaps = box_iou(box, np.array([objects[i][1] for i in same]).reshape(-1, 4))[0]
        if overlaps.max(initial=0.0) >= FOUND:
            del objects[same[int(overlaps.argmax())]]
            hits += 1
        if hits >= precision * rank:
            best = hits
    return best / max(1, total)


def ssd_program(*arguments: str) -> None:
    """Runs a command of the program; its output is shown if it fails."""
    done = subprocess.run([sys.executable, "-m", "ssd", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ssd {' '.join(arguments)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def train(args: argparse.Namespace, data: Path, flags: str, run: Path, part: float = 1) -> None:
    """Trains the recipe for a part of the epochs, unless the run exists."""
    if (run / "eval.csv").is_file():
        return
    epochs = str(max(1, round(part * args.epochs)))
    fixed = ["--config", "bccd", "--epochs", epochs, "--eval-every", epochs, "--pictures", "0"]
    weights = ["--weights-backbone", args.weights_backbone] if args.weights_backbone else []
    given = [*fixed, *weights, "--seed", str(args.seed), *args.flags.split(), *flags.split()]
    ssd_program("train", "--data-path", str(data), "--output-dir", str(run), *given)


def measure(args: argparse.Namespace, variant: str) -> dict[str, Any]:
    """Trains a variant and returns AP50 and the recall of its review."""
    folder = args.output / "all-images" if args.all_images else args.output
    data, completed, flags = folder / "data", folder / f"completed-{args.seed}", VARIANTS[variant]
    run = folder / f"{variant.replace(' ', '-')}-{args.seed}"
    if args.all_images:
        data = args.original
    elif not data.is_dir():
        annotated_as(args.original, args.completed, data)
    if variant == COMPLETED:
        first = folder / f"first-{args.seed}"
        train(args, data, flags, first, FIRST)
        if not completed.is_dir():
            fix = ["--fix", str(completed), "--fix-score", "0.5"]
            ssd_program("data", "review", str(first), "--splits", "train", *fix)
        train(args, completed, f"{flags} --dataset coco --val-share 0", run, SECOND)
    else:
        train(args, data, flags, run)
    result: dict[str, Any] = {"variant": variant, "seed": args.seed}
    for evaluation in ("", "--tta", "--tta-border", "--soft-nms", "--tta-border --soft-nms"):
        report = run / "measured.json"
        judged = ["--data-path", str(args.completed), "--dataset", "voc", "--split", "val"]
        ssd_program("eval", str(run), *judged, "--json", str(report), *evaluation.split())
        result[evaluation or "AP50"] = json.loads(report.read_text())
    ssd_program("data", "review", str(run), "--data-path", str(args.original), "--dataset", "voc", "--splits", "val")
    missing = missing_objects(args.original, args.completed, "val")
    findings = json.loads((run / "review" / "review.json").read_text())["findings"]
    unlabeled = [f for f in findings if f["kind"] == "unlabeled" and Path(f["file"]).stem in missing]
    names = sorted({name for objects in missing.values() for name, _ in objects})
    recalls = {name: recall_at(0.85, unlabeled, missing, (name,)) for name in names}
    result["recall at precision 0.85"] = {"all": recall_at(0.85, unlabeled, missing, names), **recalls}
    return result


def main() -> None:
    """Measures the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completed", required=True, type=Path, help="data set with completed annotations")
    parser.add_argument(
        "--original", required=True, type=Path, help="data set with the original annotations of the same images"
    )
    parser.add_argument(
        "--all-images",
        action="store_true",
        help="train on all training images of --original, also without a completion",
    )
    parser.add_argument("--weights-backbone", help="pretrained weights (default: none)")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of each training (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    parser.add_argument("--flags", default="", help="more flags of every training")
    parser.add_argument(
        "--output", type=Path, default="missing_annotations", help="folder of the runs, which are not repeated"
    )
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for name in ("completed", "original", "output"):  # the program runs in the checkout
        setattr(args, name, getattr(args, name).resolve())
    if args.weights_backbone and Path(args.weights_backbone).is_file():
        args.weights_backbone = str(Path(args.weights_backbone).resolve())
    for variant in args.variants:
        print(json.dumps(measure(args, variant)), flush=True)


if __name__ == "__main__":
    main()
