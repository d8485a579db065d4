"""Tests that formats which are not read are recognized, with advice on converting them."""

import json

import pytest

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.config.dataset_format import resolve_dataset
from ssd.data import DataError, open_dataset

REGION = {"shape_attributes": {"name": "rect", "x": 1, "y": 1, "width": 2, "height": 2}, "region_attributes": {}}
VIA = {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": [REGION], "file_attributes": {}}}
VIA_HEADER = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
CREATEML = [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 2, "y": 2, "width": 1}}]}]
LABEL_STUDIO = [{"id": 1, "annotations": [{"result": [{"value": {"x": 1, "rectanglelabels": ["cat"]}}]}]}]
CVAT = '<?xml version="1.0"?>\n<annotations><version>1.1</version><image id="0" name="a.jpg"/></annotations>'
FILES = {
    "via_region_data.json": (json.dumps(VIA), "VGG Image Annotator"),
    "via_project.json": (json.dumps({"_via_settings": {}, "_via_img_metadata": VIA}), "VGG Image Annotator"),
    "train/_annotations.createml.json": (json.dumps(CREATEML), "CreateML.*CSV file with the columns image, xmin"),
    "train/metadata.jsonl": ('{"file_name": "a.jpg", "objects": {"bbox": [[1, 1, 2, 2]]}}\n', "imagefolder.*CSV file"),
    "project-1.json": (json.dumps(LABEL_STUDIO), "Label Studio's JSON.*export as COCO"),
    "annotations.xml": (CVAT, "CVAT's own XML.*export as COCO"),
    "a-asset.json": (json.dumps({"asset": {"name": "a.jpg"}, "regions": []}), "VoTT"),
    "own/labels.json": (
        '{"classes": ["cat"], "labels": {"a": [{"bounding_box": [0.1, 0.1, 0.2, 0.2]}]}}',
        "FiftyOne's own",
    ),
    "darwin/a.json": ('{"annotations": [{"bounding_box": {"x": 1, "y": 1, "w": 2, "h": 2}}]}', "darwin convert coco"),
    "export.ndjson": ('{"data_row": {"id": "x"}}\n', "Labelbox"),
    "output.manifest": ('{"source-ref": "s3://x/a.jpg"}\n', "SageMaker"),
    "train/cats.tfrecord": ("", "a TFRecord, which is not read: convert the folder with Datumaro"),
    "training/label_2/000001.txt": ("Car 0 0 0 1 1 2 2 1 1 1 1 1 1 1\n", "KITTI"),
    "train/Cat/Label/1.txt": ("Cat 1 1 2 2\n", "OIDv4"),
    "labels.json": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS"),
    "export.zip": ("", "an archive, which is not read: extract it"),
}


@pytest.mark.parametrize("name", FILES)
def test_format_that_is_not_read_is_named_with_advice(tmp_path, name):
    text, answer = FILES[name]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for given in (tmp_path, path):
        with pytest.raises(ConfigError, match=answer) as error:
            resolve_dataset(TrainConfig(data_path=str(given)))
        assert f"{path} is " in str(error.value) and "shards" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "header", "answer"),
    [
        ("via_export_csv.csv", VIA_HEADER, "VGG Image Annotator"),
        ("metadata.csv", "file_name,objects\n", "Hugging Face's imagefolder"),
        ("train.csv", "image_id,width,height,bbox,source\n", "bbox must become the columns xmin, ymin, xmax, ymax"),
        ("train.csv", "image,x,y,w,h,label\n", "x, y, w, h must become the columns xmin, ymin, xmax, ymax"),
    ],
)
def test_csv_of_another_format_is_named_with_advice(tmp_path, name, header, answer):
    (tmp_path / name).write_text(header + "a.jpg\n")
    with pytest.raises(DataError, match=answer):
        open_dataset("csv", tmp_path, "all")
