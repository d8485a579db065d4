"""`ssd data check --fix`: a repaired copy, and an original that is only read."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssd.data import open_dataset
from ssd.programs import data as data_program
from tests.ssd.small_folders import voc_object, write_voc
from tests.ssd.test_data_check import check, numbers, save_soft_image, write_yolo


def contents(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A VOC folder with one fault of each kind that can be repaired."""
    root = tmp_path / "data"
    train = {
        "a": [voc_object(box=(5, 5, 5, 9)), voc_object(), voc_object(), voc_object("dog", (20, 10, 90, 30))],
        "broken": [voc_object()],
        "copy": [voc_object()],
        "leak": [voc_object()],
        "turned": [voc_object(box=(11, 6, 30, 20), difficult=1)],
    }
    write_voc(root, train)
    write_voc(root, {"val": [voc_object("dog")]}, "val")
    images = root / "JPEGImages"
    save_soft_image(images / "val.jpg", 50, (60, 40))
    (images / "broken.jpg").write_bytes(b"no image")
    shutil.copy(images / "a.jpg", images / "copy.jpg")
    shutil.copy(images / "val.jpg", images / "leak.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    save_soft_image(images / "turned.jpg", 7, (40, 60), exif=exif, quality=95)  # 60 x 40 after rotation, as annotated
    return root


def test_repaired_copy_has_no_faults_and_original_is_unchanged(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, fixed = contents(faulty), tmp_path / "fixed"
    turned = open_dataset("voc", faulty)
    check(faulty, "--fix", fixed, "--no-priors")
    assert contents(faulty) == before
    said = capsys.readouterr().out
    assert (
        "3 images with 4 objects; skipped 1 images that cannot be used, 2 copies of images (with 2 objects), 1" in said
    )
    check(fixed, "--no-priors", code=0)
    train, val = (open_dataset("coco", fixed, split) for split in ("train", "val"))
    assert [Path(file).name for file in train.annotations.files] == ["a.jpg", "turned.jpg"]
    assert train.classes == val.classes == ("cat", "dog")
    target = train.target(0)
    assert target["boxes"].tolist() == [[10, 5, 30, 20], [19, 9, 60, 30]] and target["labels"].tolist() == [1, 2]
    assert train.target(1)["ignore"].tolist() == [True]
    index = [Path(file).name for file in turned.annotations.files].index("turned.jpg")
    with Image.open(train.annotations.files[1]) as image:
        assert image.size == (60, 40) and not image.getexif()
    difference = train.load_image(1).float() - turned.load_image(index).float()
    assert torch.quantile(difference.abs(), 0.99) < 16  # written as JPEG once more


@pytest.mark.parametrize(
    ("folder", "message"), [("data/fixed", "is inside the data set"), ("full", "must be a new or empty")]
)
def test_repair_rejects_unsafe_output_folder(faulty: Path, folder: str, message: str) -> None:
    save_soft_image(faulty.parent / "full" / "a.jpg", 0)
    with pytest.raises(SystemExit, match=message):
        data_program.main(["check", str(faulty), "--fix", str(faulty.parent / folder)])


def test_repair_rejects_encoding_errors(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "yolo", lambda box: numbers(*box))
    with pytest.raises(SystemExit, match=r"cannot repair an error of the entire data set \(xyxy instead of cxcywh"):
        data_program.main(["check", str(root), "--fix", str(tmp_path / "fixed"), "--no-priors"])
    assert not (tmp_path / "fixed").exists()
