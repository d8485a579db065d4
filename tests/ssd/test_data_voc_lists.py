"""Tests splits of VOC by year and their unions, and difficult objects in training and evaluation."""

from pathlib import Path

import pytest

from ssd.config import TrainConfig
from ssd.data import DataError, open_dataset
from ssd.engine.setup import open_datasets
from tests.ssd.real_data import real_data
from tests.ssd.small_folders import voc_object, write_voc

UNION = "2007_trainval+2012_trainval"


def write_devkit(root: Path) -> Path:
    # 2012 has an image of the same name as one of 2007: another image all the same.
    write_voc(root / "VOC2007", {"000001": [voc_object("dog")], "000002": [voc_object("cat")]}, split="trainval")
    write_voc(root / "VOC2007", {"000003": [voc_object("cat"), voc_object("dog", difficult=1)]}, split="test")
    write_voc(root / "VOC2012", {"2008_1": [voc_object("cow")], "000002": [voc_object("dog")]}, split="trainval")
    return root


def images(dataset) -> list[str]:
    return ["/".join((Path(f).parts[-3], Path(f).stem)) for f in dataset.annotations.files]


@pytest.mark.parametrize("inside", ["", "VOCdevkit"])
def test_voc_union_of_years(tmp_path, inside):
    write_devkit(tmp_path / inside)
    dataset = open_dataset("voc", tmp_path, UNION)
    assert images(dataset) == ["VOC2007/000001", "VOC2007/000002", "VOC2012/2008_1", "VOC2012/000002"]
    assert dataset.annotations.image_ids.tolist() == [0, 1, 2, 3] and dataset.classes == ("cat", "cow", "dog")
    assert dataset[3][1]["labels"].tolist() == [3]
    (tmp_path / inside / "VOC2007" / "JPEGImages" / "000002.jpg").unlink()
    assert open_dataset("voc", tmp_path, UNION).annotations.image_ids.tolist() == [0, 2, 3], "ids do not move"


def test_voc_union_counts_an_image_once(tmp_path):
    write_devkit(tmp_path)
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "train.txt").write_text("000002\n000001\n000002\n")
    one_year = open_dataset("voc", tmp_path / "VOC2007", "train + trainval+test")
    assert images(one_year) == ["VOC2007/000002", "VOC2007/000001", "VOC2007/000003"]


def test_voc_years_are_found_from_either_folder(tmp_path):
    write_devkit(tmp_path)
    assert images(open_dataset("voc", tmp_path / "VOC2007", "test")) == ["VOC2007/000003"]
    assert len(open_dataset("voc", tmp_path / "VOC2007", UNION)) == 4
    with pytest.raises(
        DataError, match=r"several years \(2007, 2012\), so .*'trainval' must name one.*'2007_trainval'"
    ):
        open_dataset("voc", tmp_path, "trainval")
    with pytest.raises(DataError, match="no VOC2010 for the split '2010_val'; years found: 2007, 2012"):
        open_dataset("voc", tmp_path, "2010_val")
    with pytest.raises(DataError, match=r"no list of the split 'val' in .*VOC2012.*splits found: trainval$"):
        open_dataset("voc", tmp_path, "2007_trainval+2012_val")
    with pytest.raises(
        DataError, match=r"VOC2012/ and so on with these in them, or XML files .* but it does not exist"
    ):
        open_dataset("voc", tmp_path / "nowhere", UNION)


def test_voc_devkit_with_one_year_needs_no_year(tmp_path):
    write_voc(tmp_path / "VOC2007", {"a": [voc_object()]})
    assert images(open_dataset("voc", tmp_path, "train")) == ["VOC2007/a"]


@pytest.mark.parametrize(("difficult", "objects", "ignored"), [("keep", 2, 0), ("drop", 1, 0), ("ignore", 2, 1)])
def test_voc_difficult_option_affects_training_only(tmp_path, difficult, objects, ignored, capsys):
    write_devkit(tmp_path)
    config = TrainConfig(
        dataset="voc",
        data_path=str(tmp_path),
        train_split="2007_test",
        val_split="2007_test",
        dataset_options={"difficult": difficult, "empty": "drop"},
    )
    train, val = open_datasets(config)
    assert (train.summary().objects, train.summary().ignored) == (objects, ignored)
    assert (val.summary().objects, val.summary().ignored) == (2, 1), "the devkit counts no difficult object"
    assert f"{objects} objects ({ignored} ignored)" in capsys.readouterr().out


def test_voc_union_of_real_splits():
    root = real_data("voc2007_mini")
    both = open_dataset("voc", root, "train+val")
    parts = [open_dataset("voc", root, split, classes=both.classes) for split in ("train", "val")]
    assert len(both) == 400 and both.class_counts() == {
        name: sum(part.class_counts()[name] for part in parts) for name in both.classes
    }


@pytest.mark.parametrize(("split", "found"), [("tset", None), ("2007_test", None), ("valid", 1), ("val", 1)])
def test_unknown_evaluation_split_is_not_replaced_by_training_images(tmp_path, split, found):
    root = write_voc(tmp_path / "voc", {name: [voc_object()] for name in "abcd"}, "train")
    config = TrainConfig(dataset="voc", data_path=str(root), val_split=split)
    if found:
        assert len(open_datasets(config)[1]) == found  # held out, since there is no split val
    else:
        with pytest.raises(DataError, match=split):
            open_datasets(config)
