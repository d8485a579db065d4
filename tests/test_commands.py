"""Tests that the programs accept the command lines of README, docs and help texts, with data and checkpoints so named."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssd.programs import convert, data, eval, export, predict_arguments, serve, train_arguments
from tests.ssd.small_folders import voc_object, write_coco, write_voc
from tests.test_readme import ROOT, TEXTS, commands_of

PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "train": train_arguments.parse_args,
    "predict": lambda arguments: predict_arguments.parse_args(arguments, ""),
    "eval": eval.parse_args,
    "export": export.parse_args,
    "convert": convert.parse_args,
    "data": data.parse_args,
    "serve": serve.parse_args,
}
LINE = re.compile(rf"(?:\bssd/(train)\.py|(?<![\w./-])ssd ({'|'.join(PARSERS)}))( [^`\n#]+)")
RUNS = ("NAME", "first", "a", "b", "x", "ssd_tiny-shapes-1", "ssd300_vgg16-voc-1")
FILES = (
    *("ssd300_mAP_77.43_v2.pth", "frozen_inference_graph.pb", "weights.npz", "mobilenet_v2_imagenet_features_fp16.pth"),
    *("clip.mp4", "shards/0.tar", "another.jpg", "vgg16_features.pth"),
)


def command_lines() -> list[tuple[str, str]]:
    """Returns (program, arguments) of each line in a block of README, docs and help texts that has arguments."""
    programs = (ROOT / "ssd/train.py", *sorted((ROOT / "ssd/programs").glob("*.py")))
    texts = (*TEXTS.values(), *(ast.get_docstring(ast.parse(path.read_text())) or "" for path in programs))
    lines = [line for text in texts for line in commands_of(text)]
    return sorted({(m[1] or m[2], m[3].strip()) for line in lines for m in LINE.finditer(line)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with everything that the commands name."""
    root = tmp_path_factory.mktemp("work")
    (root / "ssd").symlink_to(ROOT / "ssd")
    for name in ("FOLDER", "my_data", "bccd", "VOC2007", "VOCdevkit/VOC2007", "VOCdevkit/VOC2012"):
        write_voc(root / name, {"a": [voc_object()]})
    for name in ("coco", "completed"):
        write_coco(root / name, [])
    (root / "OUTPUT").mkdir()
    (root / "OUTPUT/shards.json").write_text("{}")
    for name in RUNS:
        (root / "runs" / name).mkdir(parents=True)
        (root / "runs" / name / "best.pt").touch()
        (root / "runs" / name / "last.pt").touch()
        settings = {"dataset": "voc", "data_path": str(root / "FOLDER")}
        (root / "runs" / name / "config.json").write_text(json.dumps(settings))
    for name in FILES:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(root / "photos/a.png")
    shutil.copy(root / "photos/a.png", root / "aerial.tif")
    return root


@pytest.mark.parametrize(("program", "arguments"), command_lines())
def test_command_line_is_accepted(
    program: str, arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    try:
        PARSERS[program](shlex.split(arguments))
    except SystemExit as end:
        error = capsys.readouterr().err
        if "pip install" in error:
            pytest.skip(error)
        assert end.code in (0, None), error
