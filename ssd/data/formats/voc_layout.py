"""Where a PASCAL VOC data set keeps the annotations and images of a split: lists of ImageSets, or folders of XML files."""

import html
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ssd.common.errors import NoSplitError
from ssd.common.file_tree import is_within, read_text, walk
from ssd.config.dataset_format import is_voc_folder, voc_years
from ssd.data.faults import DataError
from ssd.data.formats.folders import describe_folder, files_by_stem
from ssd.data.formats.image_finder import ImageFinder
from ssd.data.formats.split_names import aliases, split_of_folder
from ssd.data.formats.voc_lists import read_lists


@dataclass(frozen=True)
class VOCImage:
    """An image that a split has."""

    annotation: Path
    image: str | None  # its file, or None if there is none


def find_images(root: Path, split: str) -> tuple[list[VOCImage], list[Path]]:
    """Returns the images of a split in their order, and all annotation files of the data set, to find the classes in.

    A folder with ImageSets has lists of splits (see `voc_lists`). In any other, as written by labelImg,
    Roboflow, Label Studio or Kaggle, each XML file belongs to the image of its name, beside it or in a folder for images,
    or else to the one that only its element `filename` names, and a folder train, valid or test is a split. The split
    `"all"` is every XML file.

    Raises:
        NoSplitError: There is no such split.
        DataError: The folder has no XML files in the layout of PASCAL VOC.
    """
    years = voc_years(root)
    if split != "all" and (years or (is_voc_folder(root) and (root / "ImageSets").is_dir())):
        return _listed(root, split)
    homes = list(years.values()) or [root / "Annotations" if is_voc_folder(root) else root]
    files = [path for home in homes for path in walk(home) if path.suffix.lower() == ".xml"]
    chosen = files
    found: set[str] = set()
    if split != "all":
        splits = {path: split_of_folder(path.relative_to(root)) for path in files}
        found = {name for name in splits.values() if name is not None}
        chosen = [path for path in files if splits[path] in aliases(split)]
    if not files:
        raise DataError(
            f"{root} is not a PASCAL VOC folder: expected Annotations/, ImageSets/Main/{split}.txt and JPEGImages/, "
            "VOC2007/, VOC2012/ and so on with these in them, or XML files in folders with their images, "
            f"{describe_folder(root)}"
        )
    if not chosen:
        listed = ", ".join(sorted(found)) or "none"
        raise NoSplitError(
            f"no list of the split {split!r} in {root}: expected ImageSets/Main/{split}.txt or XML files in a folder "
            f"{split}; splits found: {listed}. The split 'all' is every XML file.",
            tuple(sorted(found)),
        )
    finder = ImageFinder(root, [root])
    images = _named_images(chosen, finder.for_labels(chosen), finder)
    return [VOCImage(path, str(image) if image else None) for path, image in zip(chosen, images, strict=True)], files


def _named_images(annotations: list[Path], images: list[Path | None], finder: ImageFinder) -> list[Path | None]:
    """Returns the images; those of annotation files that are called differently are the ones that only they name."""
    rows = [row for row, image in enumerate(images) if image is None]
    near = [annotations[row].relative_to(finder.root) for row in rows]
    named = finder.find_all(zip((_filename(annotations[row]) for row in rows), near, strict=True))
    count = Counter([*images, *named])
    found = dict(zip(rows, named, strict=True))
    return [image or (found[row] if count[found[row]] == 1 else None) for row, image in enumerate(images)]


def _filename(annotation: Path) -> str:
    try:
        found = re.search(r"<filename>\s*([^<]+?)\s*</filename>", read_text(annotation))
    except (DataError, OSError):
        return ""  # reported when it is read
    return html.unescape(found[1]) if found else ""


def _listed(root: Path, split: str) -> tuple[list[VOCImage], list[Path]]:
    images: list[VOCImage] = []
    lists = read_lists(root, split)
    folders = list(dict.fromkeys(part.folder for part in lists))
    images_by_stem = {folder: files_by_stem(folder / "JPEGImages") for folder in folders}
    for part in lists:
        home = part.folder / "Annotations"
        for name in part.names:
            path = home / f"{name}.xml"
            images.append(VOCImage(path, images_by_stem[part.folder].get(name) if is_within(path, home) else None))
    return images, [path for folder in folders for path in walk(folder / "Annotations") if path.suffix == ".xml"]
