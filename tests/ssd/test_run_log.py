"""Tests what a run prints, log.txt and summary.html."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssd.engine.loop import run
from ssd.programs.train_arguments import parse_args
from ssd.reports.environment import commit
from ssd.reports.summary import write_summary
from ssd.reports.transcript import Transcript
from tests.ssd.small_folders import voc_object, write_voc
from tests.ssd.test_training import SMALL

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Returns the folder of a run with two evaluations, and its output."""
    folder = tmp_path_factory.mktemp("logged")
    out = folder.parent / "out"
    with out.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", file)
        run(replace(SMALL, dataset_options={"size": 16, "image_size": 64}, output_dir=str(folder)))
    return folder, out.read_text()


def test_output_that_is_not_a_terminal_has_one_line_per_epoch(logged: tuple[Path, str]) -> None:
    folder, out = logged
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2, shapes val", "epoch 2/2"]
    assert "images/s" in lines[0] and " left, AP50 0." in lines[0] and " in all, AP50 0." in lines[2]
    assert out.splitlines()[-1] == f"next: python -m ssd predict {folder} PHOTOS"


def test_log_file_has_all_output(logged: tuple[Path, str]) -> None:
    folder, out = logged
    log = (folder / "log.txt").read_text()
    assert all(line in log for line in out.splitlines())
    assert "epoch 1, shapes val:\nclass " in log and "ssd_ops" in log.splitlines()[0]


def test_lines_before_the_run_are_in_its_log_and_not_printed_if_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_voc(tmp_path / "data", {name: [voc_object()] for name in "abcd"})
    flags = ["--data-path", str(data), "--model", "ssd_tiny", "--image-size", "32", "--epochs", "1", "--workers", "0"]
    line = f"data set: voc, because of {data / 'Annotations'}\n"
    assert parse_args(flags) and capsys.readouterr().out == line
    config = parse_args([*flags, "--quiet", "--output-dir", str(tmp_path / "run")])
    assert capsys.readouterr().out == ""
    run(config)
    assert (tmp_path / "run" / "log.txt").read_text().count(line) == 1


def test_quiet_run_prints_warnings_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript(tmp_path / "log.txt")
    with transcript.recording(quiet=True):
        print("loading")
        transcript.start("versions")
        print("warning: few priors match")
        print("epoch 1", flush=True)
        print("warning: \udcff.jpg: unreadable")
    print("after")
    assert capsys.readouterr().out == "warning: few priors match\nwarning: \\udcff.jpg: unreadable\nafter\n"
    assert (
        tmp_path / "log.txt"
    ).read_text() == "versions\nloading\nwarning: few priors match\nepoch 1\nwarning: \\udcff.jpg: unreadable\n"


def test_log_file_of_a_folder_that_is_not_used_stays_unchanged(tmp_path: Path) -> None:
    with Transcript(tmp_path / "log.txt").recording(quiet=False):
        print("error")
    assert not (tmp_path / "log.txt").exists()


def test_run_writes_images_and_summary(logged: tuple[Path, str]) -> None:
    folder, _ = logged
    text = (folder / "summary.html").read_text()
    for name in ("train_batch.png", "detections.png", "confusion.png", "loss.png", "pr.png"):
        assert f'<img src="{name}"' in text
    assert "<h1>ssd_tiny on shapes</h1>" in text and "AP50 0." in text and "batch_size = 8" in text
    assert Image.open(folder / "train_batch.png").width > 64 * 2


def test_run_records_its_environment(logged: tuple[Path, str]) -> None:
    about = json.loads((logged[0] / "environment.json").read_text())
    assert about["torch"] == torch.__version__ and about["ssd_ops"]["backend"] in ("compiled", "reference")
    assert about["processes"] == 1 and (about["commit"] is None) == (commit(ROOT) is None)


def test_commit_is_that_of_a_checkout_of_its_own(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    (tmp_path / ".git").mkdir()  # damaged
    assert commit(tmp_path) is None


def test_summary_escapes_names_and_shows_what_limits_each_class(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model": "m", "data_path": "a/<b>", "dataset": "voc"}))
    values = {"ap": 0.25, "objects": 4, "tp": 1, "fp": 2, "missed": 3, "gains": {"missed": 0.5, "background": 0.1}}
    content = {"metric": "VOC AP", "images": 9, "images_skipped": 1, "classes": {"<i>": values, "none": {"ap": None}}}
    (tmp_path / "eval.json").write_text(json.dumps(content))
    (tmp_path / "eval.csv").write_text("epoch,step,AP50\r\n1,5,0.5\r\n2,10,0.25\r\n")
    text = write_summary(tmp_path).read_text()
    assert "<h1>m on &lt;b&gt;</h1>" in text and "AP50 0.250 after epoch 2, best 0.500 after epoch 1" in text
    assert "<td>&lt;i&gt;</td><td>0.250</td><td>4</td><td>1</td><td>2</td><td>3</td><td>missed +0.500</td>" in text
    assert "9 evaluation images (1 images could not be read)" in text and "<img" not in text


def test_log_header_with_a_name_that_is_not_text(tmp_path: Path) -> None:
    """In a POSIX locale, Python spells other bytes of an argument as lone surrogates."""
    Transcript(tmp_path / "log.txt").start("ssd train --output-dir r/\udcc3\udcbc")
    assert (tmp_path / "log.txt").read_text() == "ssd train --output-dir r/\\udcc3\\udcbc\n"
