"""Writes small data sets for tests: a few noise images with annotations in each format."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def save_image(path: Path, size: tuple[int, int] = (60, 40), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size).convert(mode).save(path)


def voc_object(name="cat", box=(11, 6, 30, 20), difficult=0) -> str:
    x1, y1, x2, y2 = box
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
    )


def write_voc(root: Path, images: dict[str, list[str]], split="train", size=(60, 40), lists="ImageSets/Main") -> Path:
    for number, (name, objects) in enumerate(images.items()):
        save_image(root / "JPEGImages" / f"{name}.jpg", size, seed=number)
        declared = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        text = f"<annotation>{declared}{''.join(objects)}</annotation>"
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / lists).mkdir(parents=True, exist_ok=True)
    (root / lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in images))
    return root


def write_coco(root: Path, annotations: list[dict], images: list[dict] | None = None) -> Path:
    if images is None:
        images = [{"id": 3_000_000_000, "file_name": "a.jpg", "width": 60, "height": 40}]
    for image in images:
        if not image.get("absent"):
            save_image(root / "images" / image["file_name"], (60, 40))
    categories = [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(data))
    return root
