"""The configuration: flags, files, and errors that come before torch is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from ssd.common.errors import ConfigError, near_name
from ssd.config import TrainConfig, load_config
from ssd.config.other_names import _FLAGS
from ssd.models import build_model
from ssd.programs.train_arguments import parse_args

ROOT = Path(__file__).resolve().parent.parent.parent


def test_flags_override_file_and_file_overrides_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    saved = TrainConfig(epochs=7, lr=0.5, model_options={"width": 8, "levels": 3})
    path.write_text(json.dumps(asdict(saved)))
    config = parse_args(["--config", str(path), "--lr", "0.25", "--model-option", "levels=4"])
    assert (config.epochs, config.lr, config.batch_size) == (7, 0.25, TrainConfig().batch_size)
    assert config.model_options == {"width": 8, "levels": 4}


def test_saved_config_round_trip(tmp_path: Path) -> None:
    config = TrainConfig(lr_steps=[3, 5], model_options={"prior_sizes": [10, 20.5]}, amp=True)
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)))
    assert TrainConfig(**load_config(tmp_path / "config.json")) == config


def test_option_values_are_json_or_text() -> None:
    config = parse_args(["--model-option", "prior-sizes=[1, 2]", "--model-option", "rule=last"])
    assert config.model_options == {"prior_sizes": [1, 2], "rule": "last"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--dataset", "vox"],
            "supervisely, labelme, shards, got 'vox' (did you mean",
        ),
        (["--model", "ssd_tinny"], "did you mean 'ssd_tiny'?"),
        (["--dataset", "voc"], "--data-path is required for --dataset voc"),
        (["--data-path", "no/such/folder"], "--data-path must be an existing folder, or a file with the suffix"),
        (
            ["--dataset", "shapes", "--data-path", "."],
            "--dataset shapes is generated and does not read --data-path .: omit",
        ),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--workers", "1099511627776"], "--workers must be at most 1024, got 1099511627776"),
        (["--image-size", "1000000"], "--image-size must be at most 16384, got 1000000"),
        (["--lr", "nan"], "--lr must be a finite number, got nan"),
        (["--momentum", "1"], "--momentum must be in [0, 1), got 1.0"),
        (["--test-only"], "--test-only needs --resume"),
        (["--weights", "nowhere.pth"], "--weights nowhere.pth: no such file"),
        (["--weights-backbone", "nowhere.pth"], "--weights-backbone nowhere.pth: no such file"),
        (["--resume", "runs/nowhere"], "--resume runs/nowhere: no such file"),
        (["--config", "n" * 300], "File name too long"),
        (["--output-dir", "n" * 300], "--output-dir 'nnnn"),
        (["--data-path", "n" * 300], "File name too long"),
        (["--resume", "n" * 300], "File name too long"),
        (["--learning-rate", "0.1"], "unknown argument --learning-rate (use --lr)"),
        (["--num-classes", "5"], "unknown argument --num-classes (the number of classes comes from the data set"),
        (["--batch_size", "2"], "unknown argument --batch_size (did you mean '--batch-size'?)"),
        (["\u2014epochs", "2"], "it begins with a long dash: write --epochs"),
        (["--data-path", ""], "--data-path must not be empty"),
        (["--fooo", "2"], "unknown argument --fooo\n"),
        (["--ema-decay", "inf"], "--ema-decay must be a finite number, got inf"),
        (["--lr-steps", "3", "-1"], "--lr-steps must not be negative, got -1"),
        (["--model-option", "width"], "--model-option must be KEY=VALUE, got 'width'"),
    ],
)
def test_config_error_messages(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_args(flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_unknown_config_key_raises_with_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"epoch": 3}))
    with pytest.raises(ConfigError, match=r"unknown key 'epoch' \(did you mean 'epochs'\?\)"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"lr": "fast"}', "lr must be a number, got 'fast'"),
        ('{"lr": NaN}', "--lr must be a finite number, got nan"),
        ('{"lr": 1e999}', "--lr must be a finite number, got inf"),
        ('{"batch_size": "8"}', "batch_size must be an integer, without quotes, got '8'"),
        ('{"batch_size": true}', "batch_size must be an integer, got True"),
        ('{"batch_size": null}', "batch_size must be an integer, got null"),
        ('{"batch_size": 1' + "0" * 99 + "}", "--batch-size must be a finite number, got a number of more"),
        ('{"epochs": 2.5}', "epochs must be an integer, got 2.5"),
        ('{"amp": "yes"}', "amp must be true or false, got 'yes'"),
        ('{"device": 0}', "device must be a string, got 0"),
        ('{"resume": {}}', "resume must be a string or null, got {}"),
        ('{"lr_steps": 5}', "lr_steps must be a list of integers, got 5"),
        ('{"eval_epochs": ["a"]}', "eval_epochs must be a list of integers, got ['a']"),
        ('{"model_options": "x"}', "model_options must be a mapping of names to values, got 'x'"),
        ('{"model_options": null}', "model_options must be a mapping of names to values, got null"),
        ('{"output_dir": "a\\u0000b"}', "--output-dir 'a\\x00b': "),
        ("[1]", "must contain a mapping of settings at the top level, got a list"),
        ("null", "must contain a mapping of settings at the top level, got a NoneType"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"lr": ', "cannot be parsed: Expecting value"),
        ('{"lr": 1, "lr": 2}', "cannot be parsed: the key 'lr' is set twice"),
        ('{"data_path": ""}', "--data-path must not be empty"),
        ('{"data_check": true}', "data_check must be a string, got True"),
        ('{"learning_rate": 1}', "unknown key 'learning_rate' (use --lr)"),
        (
            '{"lr": 1, "lr": [' + "1, " * 900_000 + "1]}",
            "a configuration file of this format has at most 1048576 bytes",
        ),
    ],
)
def test_config_file_value_types_are_checked(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SystemExit):
        parse_args(["--config", str(tmp_path / "config.json")])
    said = capsys.readouterr().err.splitlines()[-1]
    assert message in said and len(said) < 600


def test_config_file_that_is_not_text_raises(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\x89PNG\xff\x00")
    with pytest.raises(ConfigError, match="must be a text file in UTF-8"):
        load_config(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="directory"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        ("yaml", "".join(f"k{number}: 1\n" for number in range(10_000)), "has at most 65536 bytes"),
        ("toml", "a" + ".a" * 30_000 + " = 1", "has a line with more than 200 dots"),
    ],
)
def test_config_file_that_takes_minutes_to_parse_raises(tmp_path: Path, suffix: str, text: str, message: str) -> None:
    if suffix == "toml":
        pytest.importorskip("tomllib")
    (tmp_path / f"a.{suffix}").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / f"a.{suffix}")


def test_config_files_in_yaml_and_toml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 1e-4\nlr_steps: [3, 5]\nmodel_options:\n  width: 8\n")
    expected = {"lr": 1e-4, "lr_steps": [3, 5], "model_options": {"width": 8}}
    assert load_config(tmp_path / "a.yaml") == expected
    (tmp_path / "s.yaml").write_text("tensorboard: off\ncuda_graph: on\noutput_dir: 2026-11-27\nseed: 1_000\n")
    assert load_config(tmp_path / "s.yaml") == {
        "tensorboard": "off",
        "cuda_graph": "on",
        "output_dir": "2026-11-27",
        "seed": 1000,
    }
    for text, message in {
        "seed: 010": "seed must be an integer, without quotes, got '010'",
        "epochs: 1:30": "epochs must be an integer, got '1:30'",
        "lr: 1\nlr: 2": "the key 'lr' is set twice",
    }.items():
        (tmp_path / "t.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config(tmp_path / "t.yaml")
    (tmp_path / "b.yaml").write_text("dataset: &a shapes\nmodel: *a\n")
    with pytest.raises(ConfigError, match=r"aliases \(\*name\) are not allowed"):
        load_config(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("lr: !!python/object/apply:os.system [true]\n")
    with pytest.raises(ConfigError, match=r"c\.yaml cannot be parsed"):
        load_config(tmp_path / "c.yaml")
    (tmp_path / "a.toml").write_text("lr = 1e-4\nlr_steps = [3, 5]\n[model_options]\nwidth = 8\n")
    if sys.version_info >= (3, 11):
        assert load_config(tmp_path / "a.toml") == expected
    else:
        with pytest.raises(ConfigError, match=r"TOML needs Python 3\.11"):
            load_config(tmp_path / "a.toml")


def test_config_file_with_code_path_needs_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"dataset": "subprocess:getoutput", "dataset_options": {"cmd": "true"}}))
    with pytest.raises(SystemExit):
        parse_args(["--config", str(path)])
    assert "'subprocess:getoutput', which would run code" in capsys.readouterr().err
    for flags in (["--trust-config"], ["--dataset", "subprocess:getoutput"]):
        assert parse_args(["--config", str(path), *flags]).dataset == "subprocess:getoutput"
    path.write_text(json.dumps({"dataset": "subprocess:getoutput"}))
    assert parse_args(["--config", str(path), "--dataset", "shapes", "--dataset-option", "size=3"]).dataset == "shapes"


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("vox", ("voc", "coco"), "voc"),
        ("ssd_tinny", ("ssd_tiny",), "ssd_tiny"),
        ("learning-rate", ("lr-update",), None),
        ("version", ("iterations",), None),
        ("foo", ("zoom",), None),
        ("weights", ("loc_weight",), None),
        ("Batch-Size", ("batch_size",), "batch_size"),
        ("--", ("--wd",), None),
    ],
)
def test_suggestions_are_limited_to_similar_names(word: str, known: tuple[str, ...], expected: str | None) -> None:
    assert near_name(word, known) == expected


def test_option_names_of_other_programs_suggest_existing_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = capsys.readouterr().out
    assert all(flag in text for words in _FLAGS for flag in re.findall(r"--[a-z-]+\b", words) if "nproc" not in flag)
    with pytest.raises(ValueError, match="unknown option of ssd_tiny 'pretrained'"):
        build_model("ssd_tiny", 3, pretrained=True)
    with pytest.raises(ValueError, match="did you mean 'weights_backbone'"):
        build_model("ssd300_vgg16", 3, pretrained=True)


def test_help_lists_all_options() -> None:
    from ssd.programs.option_listing import listing

    text = listing()
    for word in (
        "width=16",
        "match_iou_threshold=0.5",
        "apply_exif=",
        "crowd=ignore",
        "min_negatives=0",
        "--dataset yolo",
    ):
        assert word in text, word
    assert all(len(line) < 130 for line in text.splitlines())


@pytest.mark.parametrize(("command", "code"), [("ssd/train.py --help", 0), ("-m ssd.train --dataset vox", 2)])
def test_help_and_errors_do_not_import_torch(command: str, code: int) -> None:
    words = [sys.executable, "-X", "importtime", *command.split()]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr[-2000:]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "ssd.config" in imported
    assert not imported & {"torch", "torchvision", "matplotlib"}


def test_models_and_presets_of_command_line_exist() -> None:
    import ssd
    from ssd.config.choices import MODELS, PRESETS

    assert set(MODELS) == set(ssd.MODELS) and set(PRESETS) == set(ssd.PRESETS)
