"""Tests CSV files of boxes: columns, folders, units, and errors that name the line."""

import csv

import pytest

from ssd.data import DataError, open_dataset
from tests.ssd.real_data import real_data
from tests.ssd.small_folders import save_image

HEADER = "image,xmin,ymin,xmax,ymax,label"


def write_csv(root, *lines, name="train.csv", images=("a.jpg", "b.jpg"), folder="images"):
    for number, image in enumerate(images):
        save_image(root / folder / image, (60, 40), seed=number)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    "lines",
    [
        (HEADER, "a.jpg,10,5,30,20,dog", "b.jpg,,,,,", "a.jpg,0,0,60,40,cat"),
        ("a.jpg,10,5,30,20,dog", "b.jpg,,,,,", "a.jpg,0,0,60,40,cat"),  # keras-retinanet
        (
            "filename,width,height,class,xmin,ymin,xmax,ymax",  # TensorFlow's object detection, Roboflow
            "a.jpg,60,40,dog,10,5,30,20",
            "b.jpg,60,40,NaN,nan,nan,nan,nan",
            "a.jpg,60,40,cat,0,0,60,40",
        ),
        ("Image;X1;Y1;X2;Y2;Label", "images/a.jpg;10;5;30;20;dog", "b;;;;;", "images/a.jpg;0;0;60;40;cat"),
        (
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf,ClassName",  # Open Images
            "a,x,/m/1,1,0.16666667,0.5,0.125,0.5,0,dog",
            "b,x,,,,,,,,",
            "a,x,/m/2,1,0,1,0,1,0,cat",
        ),
    ],
)
def test_csv_column_layouts(tmp_path, lines, capsys):
    dataset = open_dataset("csv", write_csv(tmp_path, *lines))
    assert dataset.classes == ("cat", "dog") and "classes found in" in capsys.readouterr().out
    assert [len(dataset.target(i)["labels"]) for i in range(2)] == [2, 0] and not dataset.report
    image, target = dataset[0]
    assert image.shape == (3, 40, 60) and target["labels"].tolist() == [2, 1]
    assert target["boxes"].round(decimals=4).tolist() == [[10, 5, 30, 20], [0, 0, 60, 40]]
    assert ("read as normalized" in str(dataset.summary())) == lines[0].startswith("ImageID")
    assert len(open_dataset("csv", tmp_path, empty="drop")) == 1


@pytest.mark.parametrize("empty", ["", "NaN"])
def test_csv_class_without_a_box_is_an_image_without_objects(tmp_path, empty):
    corners = ",".join([empty] * 4)
    write_csv(tmp_path, HEADER, "a.jpg,10,5,30,20,dog", f"b.jpg,{corners},No finding")
    dataset = open_dataset("csv", tmp_path)
    assert dataset.classes == ("dog",) and not dataset.report and len(dataset.target(1)["labels"]) == 0
    assert "1 rows have a class but no box, and give their image no object: No finding 1" in str(dataset.summary())


def test_csv_ignore_and_split_columns(tmp_path):
    write_csv(
        tmp_path,
        f"{HEADER},difficult,split",
        "a.jpg,10,5,30,20,dog,0,train",
        "a.jpg,1,1,9,9,dog,1,train",
        "b.jpg,1,1,9,9,cat,0,validation",
        name="annotations.csv",
    )
    train = open_dataset("csv", tmp_path, "train")
    assert len(train) == 1 and train.target(0)["ignore"].tolist() == [False, True]
    assert open_dataset("csv", tmp_path, "val", classes=["dog", "cat"]).target(0)["labels"].tolist() == [2]
    assert len(open_dataset("csv", tmp_path, "all")) == 2
    with pytest.raises(DataError, match="no row of the split 'test'; splits found: train, validation"):
        open_dataset("csv", tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("train_labels.csv", "images/train"),
        ("train/_annotations.csv", "train"),
        ("annotations/train.csv", "train"),
        ("sub-train-annotations-bbox.csv", "train"),
    ],
)
def test_csv_file_and_image_folder_layouts(tmp_path, name, folder):
    write_csv(tmp_path, HEADER, "a.jpg,10,5,30,20,dog", name=name, folder=folder)
    assert len(open_dataset("csv", tmp_path)) == 1
    assert len(open_dataset("csv", tmp_path, "any", annotations=name, images=folder)) == 1


def test_csv_pixel_and_normalized_coordinates(tmp_path):
    write_csv(tmp_path, HEADER, "a.jpg,0,0,1,1,dot")
    assert open_dataset("csv", tmp_path).target(0)["boxes"].tolist() == [[0, 0, 60, 40]]
    assert open_dataset("csv", tmp_path, units="pixels").target(0)["boxes"].tolist() == [[0, 0, 1, 1]]


FAULTY = {
    "line malformed": "a.jpg,10,5,30,20",
    "box not a number": "a.jpg,10,5,,20,dog",
    "box not finite": "a.jpg,10,5,inf,20,dog",
    "unknown class": "a.jpg,10,5,30,20,tiger",
    "box without area": "a.jpg,30,5,10,20,dog",
    "box outside its image": "a.jpg,100,5,130,20,dog",
    "image missing": "gone.jpg,10,5,30,20,dog",
}


@pytest.mark.parametrize("kind", FAULTY)
def test_csv_bad_line_error_names_line(tmp_path, kind):
    write_csv(tmp_path, HEADER, "a.jpg,10,5,30,20,dog", FAULTY[kind], "b.jpg,10,5,30,20,dog")
    dataset = open_dataset("csv", tmp_path, classes=["dog"])
    assert dataset.summary().faults == {kind: 1} and "train.csv, line 3" in str(dataset.summary())
    assert len(dataset) == 2 and len(dataset.annotations.labels) == 2
    with pytest.raises(DataError, match=r"train\.csv, line 3"):
        open_dataset("csv", tmp_path, classes=["dog"], on_error="raise")


def test_csv_file_error_messages(tmp_path):
    (tmp_path / "other.csv").write_text("x\n")
    with pytest.raises(DataError, match=r"no CSV of the split 'train': expected train\.csv, .*found other\.csv"):
        open_dataset("csv", tmp_path)
    write_csv(tmp_path, "image,xmin,ymin,xmax,label", "a.jpg,1,2,3,dog")
    with pytest.raises(DataError, match=r"train\.csv, line 1: expected a header with image, .*which lacks ymax"):
        open_dataset("csv", tmp_path)
    with pytest.raises(DataError, match="units must be one of 'auto', 'pixels', 'normalized', got 'mm'"):
        open_dataset("csv", tmp_path, units="mm")
    (tmp_path / "train.csv").unlink()
    (tmp_path / "annotations.csv").write_text(f"{HEADER}\na.jpg,1,2,3,4,dog\n")
    with pytest.raises(DataError, match="holds all splits, so it needs a column split with the value 'train'"):
        open_dataset("csv", tmp_path)


def test_csv_voc_and_coco_agree_on_real_images(tmp_path):
    # The same objects written as YOLO and as CSV come back as they were.
    voc = open_dataset("voc", real_data("bccd"), "val")
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").symlink_to(real_data("bccd") / "JPEGImages")
    (tmp_path / "classes.txt").write_text("\n".join(voc.classes))
    with (tmp_path / "val.csv").open("w", newline="") as file:
        table = csv.writer(file)
        for index in range(len(voc)):
            name = voc.annotations.files[index].rpartition("/")[2]
            height, width = voc.annotations.sizes[index].tolist()
            lines = []
            for box, label in zip(*(voc.target(index)[key].tolist() for key in ("boxes", "labels")), strict=True):
                table.writerow([name, *box, voc.classes[label - 1]])
                x1, y1, x2, y2 = box
                fractions = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(" ".join(map(str, (label - 1, *fractions))))
            (tmp_path / "labels" / f"{name[:-4]}.txt").write_text("\n".join(lines))
    (tmp_path / "val.txt").write_text("".join(f"images/{f.rpartition('/')[2]}\n" for f in voc.annotations.files))
    for found in (open_dataset("csv", tmp_path, "val", images="images"), open_dataset("yolo", tmp_path, "val")):
        assert found.classes == voc.classes and not found.report and len(found) == 87
        assert abs(found.annotations.boxes - voc.annotations.boxes).max() < 1e-3
        assert (found.annotations.labels == voc.annotations.labels).all()


def test_csv_quote_that_is_not_closed_is_a_fault(tmp_path):
    write_csv(
        tmp_path,
        "image,xmin,ymin,xmax,ymax,label",
        'a.jpg,1,1,20,20,"cat',
        "b.jpg,1,1,20,20,cat",
        'b.jpg,1,1,9,9,"dog"',
    )
    (tmp_path / "train.csv").open("a").write("a.jpg,1,1,20,20,cat\n")
    dataset = open_dataset("csv", tmp_path)
    assert dataset.classes == ("cat",) and dataset.log.counts == {"line malformed": 1}


def test_csv_without_a_class_names_the_first_fault(tmp_path):
    write_csv(tmp_path, "image;xmin;ymin;xmax;ymax;label", "a.jpg;1,5;1;20;20;cat")
    with pytest.raises(
        DataError, match=r"no readable row of .* has a class; the first of 1 faults: .*line 2: box not a number"
    ):
        open_dataset("csv", tmp_path)


def test_classes_that_differ_in_case_only_are_noted(tmp_path):
    write_csv(tmp_path, HEADER, "a.jpg,10,5,30,20,dog", "b.jpg,10,5,30,20,Dog", "b.jpg,1,5,30,20,cat")
    assert "note: classes that differ in case only: Dog and dog" in str(open_dataset("csv", tmp_path).summary())


def test_csv_of_open_images_gets_the_names_of_its_classes(tmp_path):
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf"
    write_csv(tmp_path, header, "a,x,/m/01yrx,1,0,1,0,1,0", "b,x,/m/0,1,0,1,0,1,1", name="train-annotations-bbox.csv")
    (tmp_path / "class-descriptions-boxable.csv").write_text('/m/01yrx,Cat\n/m/02,"a, b"\n')
    dataset = open_dataset("csv", tmp_path)
    assert dataset.classes == ("/m/0", "Cat") and dataset.target(1)["ignore"].tolist() == [True]
