"""Where a COCO data set keeps the annotations and the images of a split."""

from pathlib import Path

from ssd.common.errors import NoSplitError
from ssd.common.file_tree import is_within
from ssd.config.dataset_format import coco_files
from ssd.data.faults import DataError
from ssd.data.formats.folders import describe_folder
from ssd.data.formats.split_names import UNSPLIT, aliases, canonical, split_of_file

# Where the annotations and images of a split are kept, the official layout first. {} is the split.
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
# Folders that hold the images of a file of another layout, below its folder or the data set's.
_FOLDERS = ("", "images", "images/{}", "{}", "data", "images/default", "JPEGImages")


def find_layout(
    root: Path, split: str, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, list[Path]]:
    """Returns the annotation file of a split and the folders that its images are most likely in.

    Given paths are used unchanged, or below `root` if they are relative and exist there. The split `"all"` is
    the only COCO file of the data set.

    Raises:
        NoSplitError: There is no such split.
        DataError: a given file or folder does not exist.
    """

    def below(path: str | Path) -> Path:
        return root / path if (root / path).exists() else Path(path)

    if images is not None and not below(images).is_dir():
        raise DataError(f"images={images} must be a folder, {describe_folder(below(images))}")
    chosen = None if images is None else [below(images)]
    if annotations is not None:
        file = below(annotations)
        if not file.is_file():
            raise DataError(f"annotations={annotations} must be a COCO file, {describe_folder(file)}")
        return file, chosen or _folders(root, file, split)
    for name in aliases(split):
        for pattern, folder in _LAYOUTS:
            file, image_folder = root / pattern.format(name), root / folder.format(name)
            if file.is_file() and (chosen or image_folder.is_dir()):
                return file, chosen or [image_folder, *_folders(root, file, name)]
    file = _other_file(root, split)
    return file, chosen or _folders(root, file, split)


def _other_file(root: Path, split: str) -> Path:
    files = coco_files(root)
    splits = {file: split_of_file(file.relative_to(root)) for file in files}
    found = tuple(sorted({name for name in splits.values() if name is not None}))
    wanted = [file for file in files if splits[file] == (canonical(split) or split)]
    if split == "all":
        wanted = files if len(files) == 1 else [file for file in files if file.stem in UNSPLIT]
    if len(wanted) == 1:
        return wanted[0]
    usual = split if split[-1:].isdigit() else f"{split}2017"
    here = f"files of these: {', '.join(file.relative_to(root).as_posix() for file in files[:8])}" if files else ""
    raise NoSplitError(
        f"{root} has no COCO split {split!r}: expected annotations/instances_{usual}.json or {split}.json with the "
        f"images in {usual}/ or images/, {here or describe_folder(root)}. Other folders are given with "
        "annotations=FILE and images=FOLDER.",
        found or tuple(file.stem for file in files),
    )


def _folders(root: Path, file: Path, split: str) -> list[Path]:
    names = [pattern.format(name) for name in aliases(split) for pattern in _FOLDERS]
    folders = [base / name for base in (file.parent, root) for name in names if is_within(base / name, root)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()] or [root]
