"""Tests that the README's examples run, and that files, tests and recipes named in it exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssd.command_line import parse_args
from ssd.config import load_config
from tests.processes import run_python

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_readme_examples_run(code: str) -> None:
    done = run_python("-c", code, folder=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_readme_has_an_example_of_every_op() -> None:
    import ssd_ops

    for name in ssd_ops.__all__:
        if name.islower() and name != "reference":
            assert f"ssd_ops.{name}(" in EXAMPLES[0], f"README shows no use of {name}"


def test_readme_file_names_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for script in set(re.findall(r"python ((?:ssd|benchmarks)/\w+\.py)", README)):
        assert (ROOT / script).is_file(), script


def test_readme_test_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README)
    assert len(named) >= 7
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("path", sorted((ROOT / "ssd" / "recipes").glob("*.json")), ids=lambda p: p.stem)
def test_recipe_is_valid_config(path: Path, tmp_path: Path) -> None:
    assert load_config(path)
    config = parse_args(["--config", str(path), "--data-path", str(tmp_path)])
    assert config.data_path == str(tmp_path)
