"""Tests that types of model and data set options are checked before anything is built."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ssd.data import DataError, open_dataset
from ssd.models import build_model


@pytest.mark.parametrize(
    ("name", "option", "value", "words"),
    [
        ("ssd_tiny", "width", "fast", "width must be an integer, got 'fast'"),
        ("ssd_tiny", "width", 1.5, "width must be an integer, got 1.5"),
        ("ssd_tiny", "width", True, "width must be an integer, got True"),
        ("ssd_tiny", "width", 0, "width must be at least 1, got 0"),
        ("ssd_tiny", "width", 10**400, "width must be an integer, got a number that is too large"),
        ("ssd_tiny", "levels", None, "levels must be an integer, got None"),
        ("ssd_tiny", "aspect_ratios", "2", "aspect_ratios must be a list of lists of numbers or a list of numbers"),
        ("ssd_tiny", "aspect_ratios", [math.nan], "aspect_ratios must be a list of lists of numbers or"),
        ("ssdlite320_mobilenet_v2", "width_mult", math.inf, "width_mult must be a finite number, got inf"),
        ("ssdlite320_mobilenet_v2", "freeze_bn", "yes", "freeze_bn must be true or false or null"),
        ("ssdlite320_mobilenet_v2", "extra_channels", ["a"], "extra_channels must be a list of integers or null"),
        ("ssd300_resnet18", "freeze_bn", 1, "freeze_bn must be true or false, got 1"),
        ("ssd300_vgg16", "trainable_layers", -1, "trainable_layers must be at least 0, got -1"),
        ("ssd_tiny", "match_iou_threshold", "high", "match_iou_threshold must be a finite number, got 'high'"),
        ("ssd_tiny", "variances", [0.1, "b"], "variances must be a list of numbers"),
        ("ssd_tiny", "clip_boxes", "no", "clip_boxes must be true or false, got 'no'"),
    ],
)
def test_model_option_type_error_messages(name: str, option: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        build_model(name, 3, **{option: value})
    assert words in str(caught.value) and len(str(caught.value)) < 200


def test_numpy_numbers_and_json_lists_are_accepted() -> None:
    options = {"width": np.int64(4), "levels": 2, "match_iou_threshold": np.float32(0.5), "variances": [0.1, 0.2]}
    assert build_model("ssd_tiny", 3, image_size=64, aspect_ratios=[2, 3.0], **options).num_classes == 3


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("size", "[[", "data set 'shapes': size must be an integer or null (None), got '[['"),
        ("size", 0, "size must be at least 1, got 0"),
        ("image_size", 1.5, "image_size must be an integer, got 1.5"),
        ("cache", 1, "cache must be true or false, got 1"),
        ("seed", -1, "seed must be at least 0, got -1"),
    ],
)
def test_dataset_option_type_error_messages(option: str, value: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset("shapes", None, "val", **{option: value})
    assert words in str(caught.value)


def test_reader_option_type_error_messages() -> None:
    for name in ("voc", "coco", "yolo", "csv", "labelme"):
        with pytest.raises(DataError, match=rf"data set '{name}': on_error must be a string, got 3"):
            open_dataset(name, "nowhere", on_error=3)
        with pytest.raises(DataError, match="classes must be a list of strings or null"):
            open_dataset(name, "nowhere", classes={"a": 1})
