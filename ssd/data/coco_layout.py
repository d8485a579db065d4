"""Where a COCO data set keeps the annotations and the pictures of a split."""

from pathlib import Path

from ssd.data.faults import DataError
from ssd.data.folders import describe_folder

# Where people keep the annotations and pictures of a split, most official first. {} is the split.
_LAYOUTS = (
    ("annotations/instances_{}2017.json", "{}2017"),
    ("annotations/instances_{}2014.json", "{}2014"),
    ("annotations/instances_{}.json", "{}"),
    ("annotations/instances_{}.json", "images/{}"),
    ("annotations/instances_{}.json", "images"),
    ("annotations/{}.json", "{}"),
    ("annotations/{}.json", "images/{}"),
    ("annotations/{}.json", "images"),
    ("{}/_annotations.coco.json", "{}"),
    ("{}.json", "{}"),
    ("{}.json", "images/{}"),
    ("{}.json", "images"),
    ("instances.json", "images"),
)


def find_layout(
    root: Path, split: str, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Returns the annotation file and the picture folder of a split.

    Given paths are taken as they are, or below `root` where they are relative and exist there.
    """
    below = lambda path: root / path if (root / path).exists() else Path(path)  # noqa: E731
    for name in (split, "valid") if split == "val" else (split,):  # Roboflow's exports say valid
        for pattern, folder in _LAYOUTS:
            file = below(annotations) if annotations is not None else root / pattern.format(name)
            pictures = below(images) if images is not None else root / folder.format(name)
            if file.is_file() and pictures.is_dir():
                return file, pictures
    usual = split if split[-1:].isdigit() else f"{split}2017"
    wanted = annotations if annotations is not None else f"annotations/instances_{usual}.json or instances.json"
    pictures_wanted = images if images is not None else f"{usual}/ or images/"
    raise DataError(
        f"{root} has no COCO split {split!r}: expected {wanted} with the pictures in {pictures_wanted}, "
        f"{describe_folder(root)}. Other places are given with annotations=FILE and images=FOLDER."
    )
