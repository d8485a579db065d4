"""The program `ssd`: its commands, their help without torch, and another project's package of the same name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import ssd_launcher
from ssd.__main__ import COMMANDS, main
from ssd.common import console

ROOT = Path(__file__).resolve().parent.parent.parent


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, program: str = "/usr/bin/ssd") -> int:
    """The exit code of the program, run in this process."""
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def run_without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None; "
        f"sys.argv = {['/usr/bin/ssd', *arguments]}; from ssd.__main__ import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_help_without_importing_torch(command: str) -> None:
    found = run_without_torch(command, "--help")
    assert found.returncode == 0, found.stderr
    assert f"usage: ssd {command}" in found.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_rejects_unknown_flag_without_importing_torch(command: str) -> None:
    found = run_without_torch(command, "--no-such-flag")
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith(f"ssd {command}"), found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("option", ["--model-option", "--dataset-option", "--augmentation-option"])
def test_training_rejects_unknown_option_without_importing_torch(option: str) -> None:
    found = run_without_torch("train", option, "no_such=1")
    assert found.returncode == 2 and f"error: {option}: unknown option of " in found.stderr, found.stderr


def test_python_m_ssd_is_the_same_program() -> None:
    command = [sys.executable, "-m", "ssd", "--help"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0
    assert all(f"\n  {name} " in found.stdout for name in COMMANDS)


def test_unknown_command_suggests_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "trian") == 2
    assert "unknown command 'trian', did you mean 'train'?" in capsys.readouterr().err
    assert run(monkeypatch) == 2
    assert capsys.readouterr().err.startswith("usage: ssd")


def test_version_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"ssd {console.package_version()}\n"


@pytest.mark.parametrize(
    ("started", "usage", "next_command"),
    [
        ("/usr/bin/ssd", "ssd train", "ssd predict"),
        ("/site-packages/ssd/__main__.py", "ssd train", "python -m ssd predict"),
        ("ssd/train.py", "train.py", "python -m ssd predict"),
        ("/site-packages/pytest/__main__.py", "ssd train", "python -m ssd predict"),
    ],
)
def test_next_command_is_named_as_program_was_started(
    monkeypatch: pytest.MonkeyPatch, started: str, usage: str, next_command: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert console.program_name("train") == usage
    assert console.how_to_run("predict") == next_command


def test_launcher_accepts_this_package() -> None:
    assert ssd_launcher.clash() is None


@pytest.mark.parametrize("name", ["ssd.py", "ssd/__init__.py"])
def test_launcher_rejects_another_package_named_ssd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    other.parent.mkdir(exist_ok=True)
    other.write_text("raise RuntimeError('must not be imported')\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: ModuleSpec("ssd", None, origin=str(other)))
    with pytest.raises(SystemExit) as end:
        ssd_launcher.main()
    assert f"error: the module ssd that Python finds, {other}, is of another project" in str(end.value)
    assert "Remedy: rename it or remove it from Python's path" in str(end.value)


def test_launcher_names_remedy_for_overwritten_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ssd").mkdir()
    origin = tmp_path / "ssd/__init__.py"
    origin.write_text("__version__ = '0.8'\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: ModuleSpec("ssd", None, origin=str(origin)))
    monkeypatch.setattr(ssd_launcher, "__file__", str(tmp_path / "ssd_launcher.py"))
    assert (ssd_launcher.clash() or "").endswith("Remedy: pip install --force-reinstall --no-deps ssd_ops")


@pytest.mark.slow
def test_bench_lists_benchmarks_and_passes_arguments(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "bench") == 0
    assert "nms" in capfd.readouterr().out.splitlines()
    assert run(monkeypatch, "bench", "nsm") == 2
    assert "unknown benchmark 'nsm', did you mean 'nms'?" in capfd.readouterr().err
    assert run(monkeypatch, "bench", "nms", "--help") == 0
    assert "bench_nms.py" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ("predict run photos --score-treshold 1", "--score-threshold"),
        ("eval run --data-pth x", "--data-path"),
        ("data check x --dataset-optoin a=b", "--dataset-option"),
    ],
)
def test_misspelled_flag_suggests_closest(
    arguments: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments.split()) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"(did you mean {flag!r}?)")


def test_hint_does_not_name_a_flag_of_another_command(capsys: pytest.CaptureFixture[str]) -> None:
    from ssd.programs.data import main as data

    with pytest.raises(SystemExit):
        data(["check", "folder", "--output", "x"])  # of ssd data review
    assert (
        capsys.readouterr().err == "ssd data: error: unrecognized arguments: --output x (see ssd data check --help)\n"
    )


@pytest.mark.parametrize(
    ("value", "given"), [("99999999999999999999", "99999999999999999999"), ("9" * 5000, "a number of 5000 digits")]
)
@pytest.mark.parametrize(
    "command", [("predict", "--batch-size"), ("eval", "--workers"), ("data", "check", "--workers")]
)
def test_integer_of_too_many_digits_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    value: str,
    given: str,
) -> None:
    *name, flag = command
    assert run(monkeypatch, *name, "there", "here", flag, value) == 2
    assert capsys.readouterr().err.endswith(f"{flag}: must be an integer below 2147483648, got {given}\n")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["predict", "runs/x", ""], "ssd predict: error: argument SOURCE"),
        (["predict", "runs/x", "a.jpg", "--output-dir="], "argument --output-dir"),
        (["eval", "runs/x", "--data-path", ""], "argument --data-path"),  # evaluated on generated shapes
        (["eval", "runs/x", "--json", ""], "argument --json"),  # wrote no JSON
        (["data", "pack", "bccd", ""], "ssd data pack: error: argument OUTPUT"),
        (["replay", ""], "argument source"),
    ],
)
def test_empty_text_of_an_unset_variable_is_rejected(
    words: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *words) == 2
    assert f"{named}: must not be empty" in capsys.readouterr().err
