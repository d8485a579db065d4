"""Tests that the examples of README and docs run, and that files, tests, flags and recipes they name exist."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from ssd.config import load_config
from ssd.programs.train_arguments import parse_args
from tests.processes import run_python

ROOT = Path(__file__).resolve().parent.parent
PAGES = {name: ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")}
PAGES |= {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "docs").rglob("*.md"))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
RUN_ALL = """
import sys, traceback
for number, block in enumerate(sys.stdin.read().split("\\0")):
    try:
        exec(compile(block, f"example {number}", "exec"), {"__name__": "__main__"})
    except Exception:
        sys.exit(f"{traceback.format_exc()}\\n{block}")
"""
PROGRAMS = (
    r"(?:[A-Z_]+=\S+ )*(?:python|ssd|pip|pytest|make|cmake|curl|torchrun|docker|pre-commit|git|conda|uv)\b (?!->)"
)
# The name of a program in text.
BARE = r"python -m ssd|ssd (?:train|predict|serve|eval|replay|export|convert|bench|data(?: \w+)?)"
# `ssd eval` and others are the programs of the same names in ssd/programs/
COMMAND = re.compile(
    r"(?:python (?:ssd|benchmarks)/\w+\.py"
    r"|(?<![\w./-])ssd (?:train|predict|serve|eval|export|convert|data (?:check|review|pack)|doctor|bench))(?: [^`\n]*)?"
)


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def commands_of(text: str) -> list[str]:
    """Command lines in blocks, and in backticks those with arguments; a backslash continues a line."""
    text = re.sub(r"\\\n\s*", "", text)
    blocks = re.findall(r"^```(?:|sh|bash|console)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^(?:    |\t)(?!\s)(.*)$", text, flags=re.MULTILINE)
    lines += re.findall(r"`([^`\n]+)`", text)
    found = [part.partition("  #")[0].strip() for line in lines for part in line.split(" && ")]
    return [c for c in found if re.match(PROGRAMS, c) and "..." not in c and not re.fullmatch(BARE, c)]


@cache
def help_of(program: str) -> str:
    done = run_python(*program.split(), "--help", folder=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "pages", [["README.md"], [name for name in PAGES if name != "README.md"]], ids=["readme", "docs"]
)
def test_examples_run(pages: list[str], tmp_path: Path) -> None:
    blocks = [block for page in pages for block in python_blocks(TEXTS[page])]
    assert len(blocks) >= 3
    script = tmp_path / "run_all.py"
    script.write_text(RUN_ALL.replace("sys.stdin.read()", repr("\0".join(blocks))))
    done = run_python(str(script), folder=ROOT, environment={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]


def test_docs_have_an_example_of_every_op() -> None:
    import ssd_ops

    examples = "\n".join(block for text in TEXTS.values() for block in python_blocks(text))
    pages = "\n".join(text for name, text in TEXTS.items() if name.startswith("docs/"))
    for name in ssd_ops.__all__:
        if name.islower() and name not in ("reference", "build_info"):
            assert re.search(rf"::: ssd_ops\.(_\w+\.)?{name}\b", pages), f"docs have no contract of {name}"
            assert f"ssd_ops.{name}(" in examples or name.endswith("_box_iou"), f"docs show no use of {name}"


def test_docs_show_measured_times_and_figures() -> None:
    from benchmarks.measured import times

    docs = "\n".join(TEXTS.values())
    markers = re.findall(r"<!-- times: (.*?) -->", docs)
    assert len(markers) >= 7
    for prefix in ", ".join(markers).split(", "):
        assert f"| {prefix}" in times((prefix,)), f"benchmarks/results have no times of {prefix}"
    drawn = (ROOT / "docs" / "draw.py").read_text(encoding="utf-8")
    for figure in re.findall(r"figures/(\w+)\.svg", "\n".join(t for n, t in TEXTS.items() if n.startswith("docs/ops"))):
        assert f"def {figure}() -> plt.Figure" in drawn, f"docs/draw.py does not draw {figure}"


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page: str) -> None:
    drawn_at_build = ("figures/",)
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXTS[page]):
        if not target.startswith(drawn_at_build):
            assert (PAGES[page].parent / target).exists(), target


def test_commands_name_flags_that_exist() -> None:
    found = {match[0] for text in TEXTS.values() for c in commands_of(text) if (match := COMMAND.search(c))}
    assert len(found) >= 10
    for command in found:
        words = shlex.split(command)
        program = words[1] if words[0] == "python" else f"-m ssd {' '.join(words[1 : 3 if words[1] == 'data' else 2])}"
        assert words[0] == "ssd" or (ROOT / program).is_file(), command
        for flag in (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)):
            if flag not in ("--help",):
                assert re.search(rf"(?<![\w-]){re.escape(flag)}\b", help_of(program)), f"{command}: no flag {flag}"


def test_contributing_names_existing_folders_and_every_package_of_ssd() -> None:
    folders = re.findall(r"`((?:csrc|ssd_ops|ssd|tests|benchmarks|docs)/(?:\w+/)*)`", TEXTS["CONTRIBUTING.md"])
    assert len(folders) >= 20
    assert not [folder for folder in folders if not (ROOT / folder).is_dir()]
    packages = {f"ssd/{path.parent.name}/" for path in (ROOT / "ssd").glob("*/__init__.py")}
    assert packages <= set(folders), "CONTRIBUTING.md does not say what these are for"


def test_test_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", "\n".join(TEXTS.values()))
    assert len(named) >= 7
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("path", sorted((ROOT / "ssd" / "recipes").glob("*.json")), ids=lambda p: p.stem)
def test_recipe_is_valid_config(path: Path, tmp_path: Path) -> None:
    assert load_config(path)
    config = parse_args(["--config", str(path), "--data-path", str(tmp_path)])
    assert config.data_path == str(tmp_path)
