"""Tests the readers on small generated folders: formats, options, and errors that name file and object."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ssd_ops
from ssd.data import DataError, collate, open_dataset, read_image
from ssd.evaluate import Evaluator
from tests.ssd.small_folders import save_image, voc_object, write_coco, write_voc


def test_voc_target_values(tmp_path):
    write_voc(tmp_path, {"b": [voc_object("dog", (1, 1, 60, 40)), voc_object("cat", difficult=1)], "a": []})
    dataset = open_dataset("voc", tmp_path)
    assert dataset.classes == ("cat", "dog") and dataset.num_classes == 3 and len(dataset) == 2
    image, target = dataset[0]
    assert image.dtype == torch.uint8 and image.shape == (3, 40, 60)
    assert torch.equal(target["boxes"], torch.tensor([[0.0, 0.0, 60.0, 40.0], [10.0, 5.0, 30.0, 20.0]]))
    assert target["labels"].tolist() == [2, 1] and target["ignore"].tolist() == [False, True]
    assert dataset[1][1]["boxes"].shape == (0, 4) and dataset[1][1]["image_id"] == 1
    summary = dataset.summary()
    assert (summary.images, summary.empty_images, summary.objects, summary.ignored) == (2, 1, 2, 1)
    assert not summary.faults


@pytest.mark.parametrize(
    ("coordinates", "expected"),
    [("edges", [10.0, 5.0, 30.0, 20.0]), ("minus_one", [10.0, 5.0, 29.0, 19.0]), ("as_is", [11.0, 6.0, 30.0, 20.0])],
)
def test_voc_coordinate_conventions(tmp_path, coordinates, expected):
    write_voc(tmp_path, {"a": [voc_object()]})
    assert open_dataset("voc", tmp_path, coordinates=coordinates).target(0)["boxes"][0].tolist() == expected


def test_voc_difficult_objects_and_empty_images(tmp_path):
    write_voc(tmp_path, {"a": [voc_object(difficult=1)], "b": [voc_object()]})
    assert open_dataset("voc", tmp_path, difficult="keep").annotations.ignore.tolist() == [False, False]
    assert len(open_dataset("voc", tmp_path, difficult="drop").annotations.labels) == 1
    dropped = open_dataset(
        "voc", tmp_path, empty="drop"
    )  # an image with ignored objects only contributes nothing to the loss
    assert len(dropped) == 1 and dropped.target(0)["image_id"] == 1 and dropped.summary().dropped_images == 1


def test_voc_list_outside_main_and_with_flags(tmp_path):
    write_voc(tmp_path, {"a": [voc_object()], "b": [voc_object()]}, lists="ImageSets")
    (tmp_path / "ImageSets" / "train.txt").write_text("\ufeffa  1\n\nb -1\na  1\n", encoding="utf-8")
    assert [Path(f).stem for f in open_dataset("voc", tmp_path).annotations.files] == ["a", "b"]


FAULTY = {
    "box without area": voc_object(box=(11, 6, 11, 20)),
    "box not finite": voc_object(box=("nan", 6, 30, 20)),
    "box not a number": voc_object(box=("", 6, 30, 20)),
    "box outside its image": voc_object(box=(100, 6, 130, 20)),
    "box clipped to its image": voc_object(box=(40, 6, 130, 20)),
    "unknown class": voc_object("tiger"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_voc_bad_object_error_names_it(tmp_path, kind):
    write_voc(tmp_path, {"good": [voc_object()], "bad": [voc_object(), FAULTY[kind]]})
    dataset = open_dataset("voc", tmp_path, classes=["cat"])
    assert dataset.summary().faults == {kind: 1}
    (fault,) = dataset.report
    assert fault.file.endswith("bad.xml") and fault.object_index == 1 and "bad.xml, object 1" in str(dataset.summary())
    boxes = dataset.target(1)["boxes"]
    assert len(boxes) == (2 if "clipped" in kind else 1) and bool(torch.isfinite(boxes).all())
    assert bool((boxes[:, 2:] > boxes[:, :2]).all()) and float(boxes.max()) <= 60
    with pytest.raises(DataError, match=r"bad\.xml, object 1"):
        open_dataset("voc", tmp_path, classes=["cat"], on_error="raise")


def test_voc_bad_files_are_skipped(tmp_path):
    write_voc(tmp_path, {name: [voc_object()] for name in ("ok", "torn", "lost", "blind")})
    (tmp_path / "Annotations" / "torn.xml").write_text("<annotation><object>")
    (tmp_path / "Annotations" / "lost.xml").unlink()
    (tmp_path / "JPEGImages" / "blind.jpg").unlink()
    dataset = open_dataset("voc", tmp_path)
    assert len(dataset) == 1
    assert dataset.summary().faults == {"annotation malformed": 1, "annotation missing": 1, "image missing": 1}
    with pytest.raises(DataError, match="3 faults"):
        open_dataset("voc", tmp_path, on_error="raise")


def test_voc_size_missing_or_wrong(tmp_path):
    write_voc(tmp_path, {"a": [voc_object()]}, size=(60, 40))
    path = tmp_path / "Annotations" / "a.xml"
    good = path.read_text()
    path.write_text(good.replace("<width>60", "<width>0"))
    assert open_dataset("voc", tmp_path).annotations.sizes.tolist() == [[40, 60]]
    path.write_text(good.replace("<width>60", "<width>40").replace("<height>40", "<height>60"))
    with pytest.raises(DataError, match=r"annotated as 40 x 60, the image is 60 x 40"):
        open_dataset("voc", tmp_path)[0]


def test_voc_and_coco_error_messages(tmp_path):
    with pytest.raises(DataError, match=r"expected Annotations/.* but it does not exist"):
        open_dataset("voc", tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="found photos/"):
        open_dataset("voc", tmp_path)
    with pytest.raises(DataError, match=r"no COCO split 'train'.*found photos/"):
        open_dataset("coco", tmp_path)
    write_voc(tmp_path, {"a": [voc_object()]})
    with pytest.raises(DataError, match="splits found: train"):
        open_dataset("voc", tmp_path, "val")
    with pytest.raises(DataError, match="did you mean 'difficult'"):
        open_dataset("voc", tmp_path, dificult="keep")
    with pytest.raises(DataError, match="difficult must be one of 'ignore', 'keep', 'drop', got 'maybe'"):
        open_dataset("voc", tmp_path, difficult="maybe")
    with pytest.raises(DataError, match="did you mean 'coco'"):
        open_dataset("cocoo", tmp_path)
    with pytest.raises(DataError, match="needs path="):
        open_dataset("voc")


def test_coco_ids_crowd_and_categories(tmp_path):
    base = {"image_id": 3_000_000_000, "iscrowd": 0}
    annotations = [
        {"id": 1, "category_id": 90, "bbox": [1.5, 2, 10, 20.25], **base},
        {"id": 2, "category_id": 1, "bbox": [0, 0, 60, 40], **base, "iscrowd": 1},
    ]
    dataset = open_dataset("coco", write_coco(tmp_path, annotations))
    assert dataset.classes == ("person", "bottle", "brush") and dataset.category_ids == (1, 44, 90)
    _, target = dataset[0]
    assert target["image_id"] == 3_000_000_000 and target["labels"].tolist() == [3, 1]
    assert target["boxes"].tolist() == [[1.5, 2.0, 11.5, 22.25], [0.0, 0.0, 60.0, 40.0]]
    assert target["ignore"].tolist() == [False, True] and dataset.index_of(3_000_000_000) == 0
    few = open_dataset("coco", tmp_path, classes=["brush"])
    assert (
        few.category_ids == (90,) and few.target(0)["labels"].tolist() == [1] and "1 objects of other" in few.notes[0]
    )
    with pytest.raises(DataError, match="no category 'cup'; it has person, bottle, brush"):
        open_dataset("coco", tmp_path, classes=["cup"])


def test_coco_crowd_is_ignored_in_loss(tmp_path):
    rows = [
        {"id": 1, "image_id": 3_000_000_000, "category_id": 1, "bbox": [0, 0, 20, 20]},
        {"id": 2, "image_id": 3_000_000_000, "category_id": 44, "bbox": [30, 0, 30, 40], "iscrowd": 1},
    ]
    write_coco(tmp_path, rows)
    priors = torch.tensor([[0, 0, 20, 20], [30, 0, 60, 40], [10, 25, 20, 40]]) / torch.tensor([60, 40, 60, 40])
    for crowd, expected in (("ignore", [1, -1, 0]), ("drop", [1, 0, 0])):
        batch = collate([open_dataset("coco", tmp_path, crowd=crowd)[0]])
        found = ssd_ops.match_priors(
            batch.gt_boxes, batch.gt_labels, priors, offsets=batch.offsets, ignore=batch.ignore
        )
        assert found.labels.tolist() == [expected], crowd


def test_coco_labels_option_ids(tmp_path):
    rows = [{"id": 1, "image_id": 3_000_000_000, "category_id": 44, "bbox": [1, 2, 10, 20]}]
    dataset = open_dataset("coco", write_coco(tmp_path, rows), labels="ids")
    assert dataset.num_classes == 91 and dataset.category_ids == tuple(range(1, 91))
    assert dataset.target(0)["labels"].tolist() == [44] and dataset.classes[43] == "bottle"
    assert dataset.classes[1] == "unused 2" and dataset.class_counts()["bottle"] == 1
    evaluator = Evaluator.of(dataset, "coco")
    evaluator.update([{**dataset.target(0), "scores": torch.ones(1)}], [dataset.target(0)])
    result = evaluator.summarize()
    assert result.mean_ap == pytest.approx(1.0) and list(result.per_class) == ["person", "bottle", "brush"]
    with pytest.raises(DataError, match="labels='ids' needs all categories"):
        open_dataset("coco", tmp_path, labels="ids", classes=["bottle"])


def test_coco_bad_annotations_are_reported(tmp_path):
    images = [
        {"id": "7", "file_name": "a.jpg", "width": 60, "height": 40},
        {"id": 8, "file_name": "gone.jpg", "width": 60, "height": 40, "absent": True},
        {"id": 9, "file_name": "flat.jpg", "width": 60, "height": 0},
        {"id": 7, "file_name": "again.jpg", "width": 60, "height": 40},
    ]
    rows = [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5]},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 0]},
        {"id": 3, "image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 5]},
        {"id": 4, "image_id": 5, "category_id": 1, "bbox": [0, 0, 5, 5]},
        {"id": 5, "image_id": 7, "category_id": 1, "bbox": [0, 0, float("nan"), 5]},
        {"id": 6, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5]},
        {"id": 7, "image_id": 7, "category_id": 1},
        "not an annotation",
    ]
    dataset = open_dataset("coco", write_coco(tmp_path, rows, images))
    assert len(dataset) == 1 and dataset.target(0)["boxes"].tolist() == [[0.0, 0.0, 5.0, 5.0]]
    assert dataset.summary().faults == {
        "box without area": 1,
        "unknown class": 1,
        "annotation of no image": 2,
        "box not finite": 1,
        "box not a number": 2,
        "image missing": 1,
        "image entry malformed": 1,
        "image listed twice": 1,
    }
    assert {f.object_index for f in dataset.report if f.kind == "annotation of no image"} == {3, 7}


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [], "annotations": []}'])
def test_coco_file_without_coco_content_raises(tmp_path, text):
    write_coco(tmp_path, [])
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(DataError, match=r"instances\.json is not a"):
        open_dataset("coco", tmp_path)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("1", "png"), ("LA", "png")])
def test_image_modes_are_converted_to_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    save_image(path, mode=mode)
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.array(image.convert("RGB"))
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)


def test_16_bit_image_keeps_upper_bits(tmp_path):
    values = np.arange(60 * 40, dtype=np.uint16).reshape(40, 60) * 27
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png")[1].numpy(), (values >> 8).astype(np.uint8))


def test_exif_orientation_is_opt_in(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 40, 60)
    assert read_image(tmp_path / "turned.jpg", apply_exif=True).shape == (3, 60, 40)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.95])
def test_corrupt_image_error_message(tmp_path, keep):
    write_voc(tmp_path, {"a": [voc_object()]}, size=(400, 300))
    path = tmp_path / "JPEGImages" / "a.jpg"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    dataset = open_dataset("voc", tmp_path)
    with pytest.raises(DataError, match=r"a\.jpg: image unreadable"):
        dataset[0]
