"""The names of options that are known without torch are those of the functions that take them; others are errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from ssd.config import TrainConfig, check_settings
from ssd.config.choices import MODELS as MODEL_NAMES
from ssd.config.option_names import AUGMENTATION_OPTIONS, DATASET_OPTIONS, model_options, stages
from ssd.data import registry
from ssd.data.formats.shapes import ShapesDataset
from ssd.models import build_model
from ssd.models import model_options as options_of_builder
from ssd.programs.train_arguments import parse_args
from ssd.transforms.augment import Augmentation


def keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY)


@pytest.mark.parametrize("model", [*MODEL_NAMES, "timm:resnet18"])
def test_known_names_are_those_of_the_models(model: str) -> None:
    assert model_options(model) == options_of_builder(model)
    count = stages(model)
    assert (count is not None) == ("trainable_layers" in model_options(model))
    if count is not None:
        with pytest.raises(ValueError, match=rf"must be in 0\.\.{count}, got 99"):
            build_model(model, 2, trainable_layers=99)


def test_known_names_are_those_of_data_sets_and_augmentation() -> None:
    readers = {"shapes": ShapesDataset, **registry._READERS}
    assert DATASET_OPTIONS == {name: keywords(reader) for name, reader in readers.items()}
    assert AUGMENTATION_OPTIONS == tuple(field.name for field in fields(Augmentation))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--model-option clas_target=iou",
            "--model-option: unknown option of ssd_tiny 'clas_target', did you mean 'class",
        ),
        ("--model-option preset=caffe", "--model-option preset: use --preset, got 'caffe'"),
        ("--augmentation-option mosiac=1", "unknown option of the augmentation 'mosiac', did you mean 'mosaic'?"),
        ("--dataset-option max_object=1", "unknown option of the data set 'shapes' 'max_object', did you mean"),
        ("--image-size 0", "--image-size must be at least 1, got 0"),
        ("--trainable-backbone-layers 2", "not possible with ssd_tiny; --freeze features"),
        ("--model timm:resnet18 --trainable-backbone-layers 2", "not possible with timm:resnet18; --freeze features"),
        (
            "--model ssd300_vgg16 --trainable-backbone-layers 6",
            "--trainable-backbone-layers must be in 0..5 for ssd300_vgg16, got 6",
        ),
    ],
)
def test_unknown_options_are_errors_of_the_command_line(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_args(flags.split())
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_options_of_a_model_that_is_chosen_later_are_accepted() -> None:
    config = TrainConfig(model_options={"fpn_width": 64})
    config.given = frozenset({"model_options"})  # type: ignore[misc]
    check_settings(config)
