"""Tests that the annotation tools' own readers take the files of `ssd data review`, where they are installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ssd.small_folders import save_image
from tests.ssd.test_data_review import reviewed  # noqa: F401  # a fixture


def test_datumaro_reads_the_file_for_cvat(reviewed: tuple[Path, str]) -> None:  # noqa: F811
    reader = pytest.importorskip("datumaro.plugins.data_formats.cvat.base")
    folder, _ = reviewed
    for name in ("one", "two"):
        save_image(folder / "images" / "JPEGImages" / f"{name}.jpg")
    items = list(reader.CvatBase(str(folder / "cvat.xml")))
    assert [item.id for item in items] == ["JPEGImages/one", "JPEGImages/two"]
    assert [(box.label, box.points) for box in items[1].annotations] == [
        (0, [10.0, 5.0, 30.0, 20.0]),
        (2, [40.0, 5.0, 50.0, 20.0]),
    ]


def test_label_studio_accepts_its_tasks(reviewed: tuple[Path, str]) -> None:  # noqa: F811
    tool = pytest.importorskip("label_studio_sdk.label_interface")
    labels = "".join(f'<Label value="{name}"/>' for name in ("a&amp;b", "cow", "dog"))
    control = f'<RectangleLabels name="label" toName="image">{labels}</RectangleLabels>'
    interface = tool.LabelInterface(f'<View><Image name="image" value="$image"/>{control}</View>')
    (task,) = json.loads((reviewed[0] / "label_studio.json").read_text())
    assert interface.validate_task({"data": task["data"]})
    assert interface.validate_annotation(task["annotations"][0])
    assert interface.validate_prediction(task["predictions"][0], return_errors=True) == []
