"""Detect objects in images with a trained model.

    python ssd/predict.py runs/ssd_tiny-shapes-1 photos/ another.jpg

draws the detections into predictions/ and writes them as predictions/detections.json: for each image its file, width,
height, and a list of {label, score, box: [x1, y1, x2, y2] in pixels}.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run as a file: let `import ssd` find the package, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

if TYPE_CHECKING:
    from ssd.inference import Detector, Found

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; mistakes are answered before torch is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="run folder (its best.pt, or else last.pt) or checkpoint")
    parser.add_argument("images", nargs="+", help="image files, and folders that are searched for images")
    parser.add_argument("--output-dir", default="predictions", help="folder for the results (default: predictions)")
    parser.add_argument("--score-threshold", type=float, default=0.4, help="lowest score to keep (default: 0.4)")
    parser.add_argument("-b", "--batch-size", type=int, default=8, help="images at once (default: 8)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument("--no-pictures", action="store_true", help="write detections.json only")
    args = parser.parse_args(argv)
    if not 0 <= args.score_threshold <= 1:
        parser.error(f"--score-threshold must lie in 0..1, got {args.score_threshold}")
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {args.batch_size}")
    if not Path(args.checkpoint).exists():
        parser.error(f"checkpoint {args.checkpoint} does not exist")
    args.files = find_images(args.images, parser)
    return args


def find_images(names: list[str], parser: argparse.ArgumentParser) -> list[Path]:
    """Lists the files that were named, and the images inside the folders that were named, each once."""
    files: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
            if not inside:
                parser.error(f"folder {name} holds no images ({', '.join(SUFFIXES)})")
            files.update(dict.fromkeys(inside))
        elif path.is_file():
            files[path] = None
        else:
            parser.error(f"image {name} does not exist")
    return list(files)


def main(argv: list[str] | None = None) -> None:
    """Detects as the command line says; exits with 1 if an image could not be read."""
    args = parse_args(argv)
    from ssd.config import ConfigError
    from ssd.data.faults import DataError
    from ssd.inference import load_detector
    from ssd.preparation import choose_device

    try:
        detector = load_detector(args.checkpoint, choose_device(args.device))
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    unreadable = predict(detector, args)
    if unreadable:
        sys.exit(f"{unreadable} of {len(args.files)} images could not be read, see above")


def predict(detector: Detector, args: argparse.Namespace) -> int:
    """Detects in all files, writes pictures and detections.json; returns how many files could not be read."""
    from tqdm import tqdm

    from ssd.inference import detect_files

    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    objects = unreadable = 0
    found_in = detect_files(detector, args.files, score_threshold=args.score_threshold, batch_size=args.batch_size)
    for number, found in enumerate(tqdm(found_in, total=len(args.files), unit="image", mininterval=0.5), start=1):
        if found.error is not None:
            tqdm.write(f"{found.file}: {found.error}", file=sys.stderr)
            unreadable += 1
            continue
        entry = describe(found, detector.classes)
        if not args.no_pictures:
            # numbered, since files of several folders may share a name
            entry["picture"] = f"{number:0{len(str(len(args.files)))}d}-{found.file.stem}.png"
            draw(found, detector.classes, folder / entry["picture"])
        results.append(entry)
        objects += len(found.scores)
    (folder / "detections.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"{objects} objects in {len(results)} images: {folder / 'detections.json'}")
    return unreadable


def describe(found: Found, classes: tuple[str, ...]) -> dict[str, Any]:
    """Returns an image's entry of detections.json."""
    assert found.image is not None
    height, width = found.image.shape[1:]
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return {
        "file": str(found.file),
        "width": width,
        "height": height,
        "detections": [
            {"label": classes[label - 1], "score": round(score, 4), "box": [round(x, 2) for x in box]}
            for label, score, box in rows
        ],
    }


def draw(found: Found, classes: tuple[str, ...], path: Path) -> None:
    """Writes the image with its detections drawn as PNG."""
    from torchvision.transforms.functional import to_pil_image

    from ssd.pictures import draw_boxes

    assert found.image is not None
    to_pil_image(draw_boxes(found.image, found.boxes, found.labels, classes, found.scores)).save(path)


if __name__ == "__main__":
    main()
