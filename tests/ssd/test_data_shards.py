"""`ssd data pack` and the data set that it writes: equal items, tar files for webdataset, workers, faults."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssd.common.errors import NoSplitError
from ssd.config import TrainConfig
from ssd.config.dataset_format import find_formats
from ssd.data import DataError, ImageError, build_loader, open_dataset
from ssd.data.formats.shard_files import read_index
from ssd.data.formats.shards import ShardsDataset
from ssd.data.splits import open_splits
from ssd.engine.evaluation import metric_of
from ssd.programs import data as data_program
from tests.ssd.small_folders import save_image, voc_object, write_coco, write_voc

NAMES = "abcdef"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A VOC data set with a missing image, a rotated one and a difficult object, and what pack makes of it."""
    root = tmp_path_factory.mktemp("data")
    objects = [voc_object(), voc_object("dog", (2, 3, 40, 30), difficult=1)]
    write_voc(root / "voc", {name: objects[: 1 + (name == "b")] for name in NAMES} | {"gone": [voc_object("dog")]})
    write_voc(root / "voc", {"v": [voc_object("dog")]}, "val")
    (root / "voc" / "JPEGImages" / "gone.jpg").unlink()
    (root / "voc" / "JPEGImages" / "gone.jpg").touch()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 60), "red").save(root / "voc" / "JPEGImages" / "c.jpg", exif=exif)
    save_image(root / "voc" / "JPEGImages" / "d.png")
    (root / "voc" / "JPEGImages" / "d.jpg").unlink()
    data_program.main(["pack", str(root / "voc"), str(root / "out"), "--shard-mb", "1"])
    return root / "voc", root / "out"


def check_equal(one: torch.utils.data.Dataset, other: torch.utils.data.Dataset, count: int) -> None:
    for index in range(count):
        (image, target), (image2, target2) = one[index], other[index]
        assert torch.equal(image, image2) and target.keys() == target2.keys()
        assert all(torch.equal(torch.as_tensor(target[key]), torch.as_tensor(target2[key])) for key in target)


def test_packed_items_equal_original(folders: tuple[Path, Path]) -> None:
    voc, out = folders
    assert next(iter(find_formats(out))) == "shards"
    for split, count in (("train", 6), ("val", 1)):
        original, packed = (open_dataset(name, root, split) for name, root in (("voc", voc), ("shards", out)))
        assert len(packed) == count and original.classes == packed.classes == ("cat", "dog")
        check_equal(original, packed, count)
    assert (
        isinstance(packed.annotations.boxes.base, np.ndarray | memoryview) or not packed.annotations.boxes.flags.owndata
    )
    assert packed.annotations.boxes.flags.writeable is False


def test_tar_members_are_image_and_json_of_equal_stem(folders: tuple[Path, Path]) -> None:
    with tarfile.open(folders[1] / "train-000000.tar") as tar:
        names = tar.getnames()
        about = json.load(tar.extractfile("000000001.json"))  # type: ignore[arg-type]
    assert names[:4] == ["000000000.jpg", "000000000.json", "000000001.jpg", "000000001.json"]
    assert "000000003.png" in names and len(names) == 12
    assert about.pop("file") == "JPEGImages/b.jpg"
    assert about == {
        "image_id": about["image_id"],
        "width": 60,
        "height": 40,
        "boxes": [[10, 5, 30, 20], [1, 2, 40, 30]],
        "labels": ["cat", "dog"],
        "ignore": [False, True],
    }


def test_shard_size_and_split_names(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from ssd.data.pack import pack

    train = open_dataset("voc", folders[0], "train")
    (line,) = pack({"train": train}, tmp_path / "out", folders[0], "voc", shard_bytes=1)
    assert line == "train: 6 images with 7 objects, 1 unreadable skipped; 6 tar files"
    packed = open_dataset("shards", tmp_path / "out", "training")
    check_equal(train, packed, 6)
    check_equal(packed.subset([4, 2], "part"), train.subset([4, 2], "part"), 2)
    with pytest.raises(NoSplitError, match="splits found: train"):
        open_dataset("shards", tmp_path / "out", "val")
    with pytest.raises(DataError, match="must be a new or empty folder"):
        pack({"train": train}, tmp_path / "out", folders[0], "voc")


def test_pack_without_images_refers_to_original_images(folders: tuple[Path, Path], tmp_path: Path) -> None:
    voc, out = folders[0], tmp_path / "out"
    data_program.main(["pack", str(voc), str(out), "--no-images"])
    assert not list(out.glob("*.tar"))
    packed = open_dataset("shards", out, "train")
    check_equal(open_dataset("voc", voc, "train"), packed, 6)
    assert len(packed) == 7


def test_packed_data_set_can_be_packed_again(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="are in tar files, so --no-images would lose them"):
        data_program.main(["pack", str(folders[1]), str(out), "--no-images"])
    assert not out.exists()
    data_program.main(["pack", str(folders[1]), str(out)])
    again, packed = (open_dataset("shards", root, "train") for root in (out, folders[1]))
    assert again.relative_names(".") == packed.relative_names(".") and read_index(out)["format"] == "voc"
    check_equal(packed, again, 6)


def test_pack_on_full_disk_error_is_one_line(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(SystemExit, match=rf"^error: {tmp_path}/out: No space left on device$"):
        data_program.main(["pack", str(folders[0]), str(tmp_path / "out")])
    monkeypatch.undo()
    monkeypatch.setattr("ssd.common.atomic_write.os.fsync", full)
    with pytest.raises(SystemExit, match=rf"^error: cannot write {tmp_path}/new/shards.json: No space left on device"):
        data_program.main(["pack", str(folders[0]), str(tmp_path / "new")])


def test_pickled_data_set_maps_arrays_again(folders: tuple[Path, Path]) -> None:
    packed = open_dataset("shards", folders[1], "train")
    content = pickle.dumps(packed)
    assert len(content) < 3000
    check_equal(packed, pickle.loads(content), 6)
    part = packed.subset([5, 1], "part")
    check_equal(part, pickle.loads(pickle.dumps(part)), 2)


def test_packed_training_order_equals_original_and_resumes(folders: tuple[Path, Path]) -> None:
    original, packed = (
        open_dataset(name, root, "train") for name, root in zip(("voc", "shards"), folders, strict=True)
    )
    original = original.subset(range(6), "the readable ones")

    def resized(image, target):
        return torch.zeros(3, 8, 8, dtype=torch.uint8), target

    def ids(dataset, rank: int, start: int = 0) -> list[list[int]]:
        loader = build_loader(dataset, resized, 1, train=True, rank=rank, world_size=2, seed=3)
        loader.set_epoch(1, start)
        return [batch.image_ids for batch in loader]

    for rank in (0, 1):
        assert ids(packed, rank) == ids(original, rank) and ids(packed, rank, 2) == ids(packed, rank)[2:]
    assert not {str(row) for row in ids(packed, 0)} & {str(row) for row in ids(packed, 1)}


@pytest.mark.parametrize("options", [[], ["--no-images"]])
def test_packed_validation_split_equals_original(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{folder}/{number}.jpg" for folder in "ab" for number in range(6)]
    images = [{"id": n, "file_name": name, "width": 60, "height": 40} for n, name in enumerate(names)]
    box = {"category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 0, "area": 81}
    write_coco(tmp_path / "data", [{**box, "id": n, "image_id": n} for n in range(12)], images)
    monkeypatch.chdir(tmp_path / "data")
    data_program.main(["pack", "../data", str(tmp_path / "out"), *options])

    def held_out(name: str, root: str | Path) -> list[int]:
        train, val = open_splits(name, root, "train", "val", 0.3, {})
        assert len(train) + len(val) == 12
        return val.annotations.image_ids.tolist()

    assert metric_of(TrainConfig(dataset="shards", data_path=str(tmp_path / "out"))) == "coco"
    expected = held_out("coco", ".")
    assert len(expected) == 4 and held_out("shards", "../out") == expected
    monkeypatch.chdir(tmp_path / "out")
    assert held_out("shards", ".") == held_out("shards", tmp_path / "out") == expected
    train, _ = open_splits("shards", ".", "train", "val", 0.3, {})
    assert {*train.relative_names(".")} < {f"images/{name}" for name in names}


def test_repaired_copy_of_tar_files_has_image_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        data_program.main(["check", str(folders[1]), "--no-priors", "--fix", str(tmp_path / "fixed"), "-j", "1"])
    fixed, packed = open_dataset("coco", tmp_path / "fixed", "train"), open_dataset("shards", folders[1], "train")
    assert len(fixed) == 5 and torch.equal(fixed.load_image(2), packed.load_image(3))  # the first one is in val, too


def test_damaged_shard_error_names_file(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from ssd.data.pack import pack

    two = open_dataset("voc", folders[0], "train").subset([0, 1], "two")
    pack({"train": two}, tmp_path / "out", folders[0], "voc")
    shard = tmp_path / "out" / "train-000000.tar"
    packed = open_dataset("shards", tmp_path / "out", "train")
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(ImageError, match=r"000000\.tar ends before byte"):
        packed.load_image(1)
    shard.unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        packed.load_image(0)
    arrays = tmp_path / "out" / "train-arrays"
    np.save(arrays / "labels.npy", np.zeros(9, np.int64))
    with pytest.raises(DataError, match="do not belong together; pack the data set again"):
        ShardsDataset(tmp_path / "out")
    (arrays / "labels.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"labels.npy cannot be read .* pack the data set again"):
        ShardsDataset(tmp_path / "out")
    (tmp_path / "out" / "shards.json").write_text('{"version": 9}')
    with pytest.raises(DataError, match="has version 9"):
        ShardsDataset(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": None}, "classes must be a list of names"),
        ({"format": None}, "format must be a name"),
        ({"splits": []}, "splits must be an object"),
        ({"splits": {"../x": {"shards": [], "apply_exif": False, "by_size": False}}}, "is outside of the folder"),
        ({"splits": {"train": {"shards": ["/etc/x"], "apply_exif": False, "by_size": False}}}, "is outside"),
        ({"splits": {"train": {"shards": [], "apply_exif": False, "by_size": False}}}, "source must name"),
        ({"splits": {"train": {"shards": []}}}, "apply_exif and by_size must be true or false"),
        ({"splits": {"train": []}}, "shards must be a list of names"),
        ("labels", r"labels.npy has values from 3 to 3, outside of 1 .. 2"),
        ("boxes", r"boxes.npy has values from nan"),
        ("positions", r"positions.npy has values from -1 .* \(positions, size of an image\); pack the data set again"),
        ("image_ids", r"image_ids.npy has the shape \[\] and dtype int64"),
        ("offsets", "do not belong together"),
    ],
)
def test_damaged_index_and_arrays_raise(change, message: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[1], tmp_path / "out")
    if isinstance(change, dict):
        index = json.loads((tmp_path / "out" / "shards.json").read_text())
        (tmp_path / "out" / "shards.json").write_text(json.dumps(index | change))
    else:
        path = tmp_path / "out" / "train-arrays" / f"{change}.npy"
        array = np.load(path)
        wrong = {"labels": 3, "boxes": np.nan, "positions": -1, "image_ids": 0, "offsets": 99}[change]
        array[..., -1] = wrong
        np.save(path, array[0] if change == "image_ids" else np.full_like(array, 3) if change == "labels" else array)
    with pytest.raises(DataError, match=message):
        ShardsDataset(tmp_path / "out")


def test_zero_shard_size_raises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        data_program.parse_args(["pack", str(tmp_path), "out", "--shard-mb", "0"])
    assert "--shard-mb must be at least 1, got 0" in capsys.readouterr().err


def test_arrays_of_another_byte_order_raise(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[1], tmp_path / "out")
    path = tmp_path / "out" / "train-arrays" / "boxes.npy"
    np.save(path, np.load(path).astype(">f4"))
    with pytest.raises(DataError, match=r"boxes\.npy has the shape \[\d+, 4\] and dtype >f4; pack the data set again"):
        ShardsDataset(tmp_path / "out")
