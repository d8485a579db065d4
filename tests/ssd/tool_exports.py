"""Writes small exports in the layouts of annotation tools: images of 60 x 40 with a cat at 15, 10 .. 45, 30."""

import json
from pathlib import Path

from tests.ssd.small_folders import save_image

NAMES = tuple("abcdefgh")
YOLO_LINE = "0 0.5 0.5 0.5 0.5\n"
XML = (
    "<annotation><filename>{0}.jpg</filename><size><width>60</width><height>40</height></size><object><name>cat</name>"
    "<bndbox><xmin>16</xmin><ymin>11</ymin><xmax>45</xmax><ymax>30</ymax></bndbox></object></annotation>"
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def images(folder: Path, names=NAMES) -> None:
    for seed, name in enumerate(names):
        save_image(folder / f"{name}.jpg", seed=seed)


def xml(folder: Path, names=NAMES) -> None:
    for name in names:
        write(folder / f"{name}.xml", XML.format(name))


def texts(folder: Path, names=NAMES) -> None:
    for name in names:
        write(folder / f"{name}.txt", YOLO_LINE)


def coco(path: Path, names=NAMES, prefix="", first_id=1) -> None:
    entries = [{"id": i, "file_name": f"{prefix}{n}.jpg", "width": 60, "height": 40} for i, n in enumerate(names, 1)]
    boxes = [
        {"id": i, "image_id": i, "category_id": first_id, "bbox": [15, 10, 30, 20], "area": 600, "iscrowd": 0}
        for i, _ in enumerate(names, 1)
    ]
    categories = [{"id": first_id, "name": "cat", "supercategory": ""}]
    write(
        path,
        json.dumps({"licenses": [], "info": {}, "categories": categories, "images": entries, "annotations": boxes}),
    )


def cvat_coco(root: Path) -> None:
    images(root / "images/default")
    coco(root / "annotations/instances_default.json")


def cvat_voc(root: Path) -> None:
    images(root / "JPEGImages")
    xml(root / "Annotations")
    write(root / "ImageSets/Main/default.txt", "".join(f"{name}\n" for name in NAMES))
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\ncat:0,0,0::\n")


def cvat_yolo(root: Path) -> None:
    images(root / "obj_train_data")
    texts(root / "obj_train_data")
    write(root / "obj.names", "cat\n")
    write(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "train.txt", "".join(f"data/obj_train_data/{name}.jpg\n" for name in NAMES))


def cvat_yolo_subsets(root: Path) -> None:
    for split, names in (("Train", NAMES[:6]), ("Validation", NAMES[6:])):
        images(root / f"obj_{split}_data", names)
        texts(root / f"obj_{split}_data", names)
        write(root / f"{split}.txt", "".join(f"data/obj_{split}_data/{name}.jpg\n" for name in names))
    write(root / "obj.names", "cat\n")


def cvat_ultralytics(root: Path) -> None:
    images(root / "images/train")
    texts(root / "labels/train")
    write(root / "data.yaml", "names:\n  0: cat\npath: .\ntrain: train.txt\n")
    write(root / "train.txt", "".join(f"data/images/train/{name}.jpg\n" for name in NAMES))


def label_studio_coco(root: Path) -> None:
    images(root / "images")
    coco(root / "result.json", prefix="images/", first_id=0)


def label_studio_voc(root: Path) -> None:
    images(root / "images")
    xml(root / "Annotations")


def label_studio_yolo(root: Path) -> None:
    images(root / "images")
    texts(root / "labels")
    write(root / "classes.txt", "cat\n")
    write(root / "notes.json", json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2026}}, indent=2))


def labelimg_voc(root: Path) -> None:
    images(root)
    xml(root)


def labelimg_yolo(root: Path) -> None:
    images(root)
    texts(root)
    write(root / "classes.txt", "cat\n")


def roboflow_coco(root: Path) -> None:
    for split, names in (("train", NAMES[:6]), ("valid", NAMES[6:])):
        images(root / split, names)
        coco(root / split / "_annotations.coco.json", names)
    write(root / "README.dataset.txt", "# Cats\n")


def roboflow_voc(root: Path) -> None:
    for split, names in (("train", NAMES[:6]), ("valid", NAMES[6:])):
        images(root / split, names)
        xml(root / split, names)


def roboflow_yolo(root: Path) -> None:
    for split, names in (("train", NAMES[:6]), ("valid", NAMES[6:])):
        images(root / split / "images", names)
        texts(root / split / "labels", names)
    write(root / "data.yaml", "train: ../train/images\nval: ../valid/images\n\nnc: 1\nnames: ['cat']\n")


def roboflow_darknet(root: Path) -> None:
    for split, names in (("train", NAMES[:6]), ("valid", NAMES[6:])):
        images(root / split, names)
        texts(root / split, names)
        write(root / split / "_darknet.labels", "cat\n")


def fiftyone_coco(root: Path) -> None:
    images(root / "data")
    coco(root / "labels.json")


def fiftyone_voc(root: Path) -> None:
    images(root / "data")
    xml(root / "labels")


def fiftyone_yolo(root: Path) -> None:
    images(root / "images/val")
    texts(root / "labels/val")
    images(root / "images/train")
    texts(root / "labels/train")
    write(
        root / "dataset.yaml", "names:\n  0: cat\npath: /somewhere/else\ntrain: ./images/train/\nval: ./images/val/\n"
    )


def kaggle(root: Path) -> None:
    images(root / "images")
    xml(root / "annotations")


def open_images(root: Path) -> None:
    for split, names in (("train", NAMES[:6]), ("validation", NAMES[6:])):
        images(root / split, names)
        rows = [f"{name},xclick,/m/01yrx,1,0.25,0.75,0.25,0.75,0,0,0,0,0,/m/01yrx,cat\n" for name in names]
        header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction"
        write(root / f"sub-{split}-annotations-bbox.csv", header + ",IsInside,id,ClassName\n" + "".join(rows))


def supervisely(root: Path) -> None:
    write(root / "meta.json", json.dumps({"classes": [{"title": "cat", "shape": "rectangle"}], "tags": []}))
    images(root / "ds0/img")
    for name in NAMES:
        points = {"exterior": [[15, 10], [45, 30]], "interior": []}
        entry = {"classTitle": "cat", "geometryType": "rectangle", "points": points}
        text = json.dumps({"description": "", "size": {"height": 40, "width": 60}, "tags": [], "objects": [entry]})
        write(root / f"ds0/ann/{name}.jpg.json", text)


def datumaro(root: Path) -> None:
    images(root / "images/default")
    labels = {"label": {"labels": [{"name": "cat", "parent": "", "attributes": []}], "attributes": []}}
    box = {"id": 0, "type": "bbox", "attributes": {}, "group": 0, "label_id": 0, "z_order": 0, "bbox": [15, 10, 30, 20]}
    items = [
        {"id": name, "annotations": [box], "attr": {"frame": 0}, "image": {"path": f"{name}.jpg", "size": [40, 60]}}
        for name in NAMES
    ]
    write(root / "annotations/default.json", json.dumps({"info": {}, "categories": labels, "items": items}))


def labelme(root: Path, names=NAMES, labels=()) -> None:
    images(root, names)
    for name, label in zip(names, labels or ["cat"] * len(names), strict=True):
        shape = {"label": label, "points": [[45, 30], [15, 10]], "shape_type": "rectangle", "flags": {}}
        about = {"imagePath": f"{name}.jpg", "imageData": None, "imageHeight": 40, "imageWidth": 60}
        write(root / f"{name}.json", json.dumps({"version": "5.5", "flags": {}, "shapes": [shape], **about}))


# tool and format -> (writer, format found, whether it has splits)
EXPORTS = {
    "CVAT COCO": (cvat_coco, "coco", False),
    "CVAT VOC": (cvat_voc, "voc", False),
    "CVAT YOLO 1.1": (cvat_yolo, "yolo", False),
    "CVAT YOLO 1.1 with subsets": (cvat_yolo_subsets, "yolo", True),
    "CVAT Ultralytics": (cvat_ultralytics, "yolo", False),
    "Label Studio COCO": (label_studio_coco, "coco", False),
    "Label Studio VOC": (label_studio_voc, "voc", False),
    "Label Studio YOLO": (label_studio_yolo, "yolo", False),
    "labelImg VOC": (labelimg_voc, "voc", False),
    "labelImg YOLO": (labelimg_yolo, "yolo", False),
    "Roboflow COCO": (roboflow_coco, "coco", True),
    "Roboflow VOC": (roboflow_voc, "voc", True),
    "Roboflow YOLO": (roboflow_yolo, "yolo", True),
    "Roboflow Darknet": (roboflow_darknet, "yolo", True),
    "FiftyOne COCO": (fiftyone_coco, "coco", False),
    "FiftyOne VOC": (fiftyone_voc, "voc", False),
    "FiftyOne YOLO": (fiftyone_yolo, "yolo", None),
    "Kaggle": (kaggle, "voc", False),
    "Open Images": (open_images, "csv", True),
    "supervisely": (supervisely, "supervisely", False),
    "datumaro": (datumaro, "datumaro", False),
    "labelme": (labelme, "labelme", False),
}
