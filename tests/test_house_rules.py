"""Tests rules of the code base: lengths, imports and includes, file names in comments, spelling, lists that must agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("csrc", "ssd_ops", "ssd", "benchmarks", "tests")
SOURCES = sorted(
    p for folder in CODE for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".h", ".cpp", ".cuh", ".cu")
)
PYTHON = [path for path in SOURCES if path.suffix == ".py"]
# File names of the standard library, torch, CUDA and other projects.
NAMES_OF_OTHERS = {
    "ssd.py",
    "script.py",
    "SCRIPT.py",
    "version.py",
    "ssd_pascal.py",
    "library.h",
}
LAYERS = [("ssd_ops", "ssd"), ("csrc/cpu", "cuda"), ("csrc/cuda", "cpu"), ("csrc/core", "cpu"), ("csrc/core", "cuda")]
TORCH_FREE = (
    "ssd",
    "ssd.__main__",
    "ssd.common",
    "ssd.config",
    "ssd.config.dataset_format",
    "ssd.programs",
    "ssd.recipes",
    "ssd.serve.settings",
    "ssd.train",
    "ssd.weight_files.names",
)


@cache
def text_of(path: Path) -> str:
    return path.read_text()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_of(function: ast.AST) -> int:
    """Returns the number of lines of a function without its docstring and nested functions."""
    assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    inner = (node for node in function.body if isinstance(node, ast.FunctionDef))
    return lines - sum(node.end_lineno - node.lineno + 1 for node in inner)


def test_file_length_limit() -> None:
    lengths = {name_of(path): len(text_of(path).splitlines()) for path in SOURCES}
    assert not {k: v for k, v in lengths.items() if v > (300 if k.startswith("tests/") else 250)}


def test_python_function_length_limit() -> None:
    functions = (
        (f"{name_of(path)}:{node.lineno} {node.name}", lines_of(node))
        for path in PYTHON
        if not name_of(path).startswith("tests/")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef)
    )
    assert not {where: lines for where, lines in functions if lines > 50}


def cpp_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yields the first line and the number of lines of functions and methods, by the indentation of clang-format."""
    lines = text_of(path).splitlines()
    for end, line in enumerate(lines):
        if line not in ("}", "  }"):
            continue
        indent = line[:-1]
        begin = end - 1
        while not re.match(rf"{indent}[^\s#}}/]", lines[begin]) or lines[begin].strip().endswith(":"):
            begin -= 1
        yield f"{name_of(path)}:{begin + 1} {lines[begin].strip()}", end - begin + 1


def test_cpp_function_length_limit() -> None:
    sources = (path for path in SOURCES if name_of(path).startswith("csrc/") and path.suffix != ".py")
    assert not [(where, length) for path in sources for where, length in cpp_functions(path) if length > 50]


def imports_of(path: Path) -> Iterator[str]:
    """Yields the modules that a file imports, including imports inside functions and for type checking."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circular(arrows: dict[str, set[str]]) -> set[str]:
    """Returns the names in circles of arrows, and those from which arrows lead to a circle."""
    arrows = dict(arrows)
    while leaves := [name for name, targets in arrows.items() if not targets & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    return set(arrows)


@pytest.mark.parametrize("package", ["ssd", "ssd_ops"])
def test_no_circular_imports_between_packages(package: str) -> None:
    arrows: dict[str, set[str]] = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts == (package, "__init__"):
            continue
        known = {p.stem for p in (ROOT / package).iterdir()}
        targets = {target.split(".")[1] for target in imports_of(path) if target.startswith(f"{package}.")}
        arrows.setdefault(parts[1], set()).update(targets & known - {parts[1]})
    assert not circular(arrows)


def test_no_circular_imports_between_modules() -> None:
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in PYTHON}
    known = set(names.values())
    arrows: dict[str, set[str]] = {}
    for path, name in names.items():
        targets = {t if t in known else t.rpartition(".")[0] for t in imports_of(path)}
        arrows[name] = targets & known - {name}
    assert not circular(arrows)


@pytest.mark.parametrize("lower, upper", LAYERS)
def test_lower_layers_do_not_import_upper_layers(lower: str, upper: str) -> None:
    found = []
    for path in (p for p in SOURCES if name_of(p).startswith(f"{lower}/")):
        if path.suffix == ".py":
            found += [name_of(path) for target in imports_of(path) if target.split(".")[0] == upper]
        else:
            found += [
                name_of(path) for line in re.findall(r'#include "(.*)"', text_of(path)) if upper in line.split("/")[:-1]
            ]
    assert not found


@pytest.mark.parametrize(
    "folder, below", [("core", ()), ("cpu", ("core",)), ("cuda", ("core",)), ("ops", ("core", "cpu", "cuda"))]
)
def test_csrc_includes_own_folder_and_those_below_only(folder: str, below: tuple[str, ...]) -> None:
    crossing = [
        f"{name_of(path)}: {target}"
        for path in (ROOT / "csrc" / folder).rglob("*")
        if path.is_file()
        for target in re.findall(r'#include "(\w+)/', text_of(path))
        if target not in (folder, *below, "ssd_ops")
    ]
    assert not crossing


def test_ssd_common_imports_the_standard_library_only() -> None:
    names = {target.split(".")[0] for path in (ROOT / "ssd/common").glob("*.py") for target in imports_of(path)}
    assert names <= {"ssd", *sys.stdlib_module_names}
    assert all(
        "ssd.common" in target
        for path in (ROOT / "ssd/common").glob("*.py")
        for target in imports_of(path)
        if target.startswith("ssd")
    )


def test_file_names_in_comments_exist() -> None:
    exist = {path.name for path in SOURCES} | NAMES_OF_OTHERS
    missing = [
        f"{name_of(path)}:{number} {name}"
        for path in SOURCES
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if not line.startswith("#include") and (not name_of(path).startswith("tests/") or re.match(r"\s*(//|# )", line))
        for name in re.findall(r"\b(?<!bench_)(?!bench_x)\w+\.(?:py|cuh|cu|cpp|h)\b", line)
        if name not in exist
    ]
    assert not missing


def test_command_line_does_not_import_torch() -> None:
    program = f"import sys; [__import__(name) for name in {TORCH_FREE!r}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_american_spelling() -> None:
    british = r"colour|normalis|optimis(?!tic)|behaviour|\bcentre|neighbour|initialis|synchronis|serialis|labell|modell"
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "benchmarks").glob("*.md")]
    words = {name_of(path): re.findall(british, text_of(path).lower()) for path in (*SOURCES, *pages)}
    del words[name_of(Path(__file__).resolve())]
    assert not {name: found for name, found in words.items() if found}


def test_constants_of_cpp_and_python_agree() -> None:
    def number(path: str, name: str) -> int:
        return int(re.search(rf"\b{name} = (\d+)\b", (ROOT / path).read_text())[1])

    assert number("csrc/core/levels.h", "kMaxLevels") == number("ssd_ops/_levels.py", "MAX_LEVELS")
    assert number("csrc/core/render.h", "kMaxImageSide") == number("ssd_ops/reference/images.py", "MAX_SIDE")


def test_minimum_version_of_torch_is_the_same_everywhere() -> None:
    statements = {
        "pyproject.toml": r'"torch>=([\d.]+)',
        "setup.py": r'"torch>=([\d.]+)"',
        "csrc/build_info.json.in": r'"torch_at_least": "([\d.]+)"',
        "csrc/plan/build_plan.py": r"MIN_TORCH = \((\d+, \d+)\)",
    }
    found = {path: re.search(pattern, (ROOT / path).read_text())[1] for path, pattern in statements.items()}
    assert {version.replace(", ", ".") for version in found.values()} == {"2.11"}, found
    assert "TORCH_TARGET_VERSION=0x020b" in (ROOT / "CMakeLists.txt").read_text()


def test_version_is_the_same_everywhere() -> None:
    statements = {
        "pyproject.toml": r'^version = "(.*)"',
        "CITATION.cff": r"^version: (.*)",
        "CHANGELOG.md": r"^## \[(\d.*?)\]",
    }
    found = {
        path: re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)[1] for path, pattern in statements.items()
    }
    assert len(set(found.values())) == 1, found


def test_python_versions_agree() -> None:
    project, wheels = ((ROOT / path).read_text() for path in ("pyproject.toml", ".github/workflows/wheels.yml"))
    versions = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', project)
    assert re.search(r'requires-python = ">=3\.(\d+)"', project)[1] == versions[0]
    assert re.findall(r"cp3(\d+)-manylinux_x86_64", wheels) == versions


def test_docs_have_the_help_of_every_command() -> None:
    from ssd.__main__ import COMMANDS

    shown = re.findall(r"<!-- help: (\w+)", (ROOT / "docs/programs.md").read_text())
    assert set(shown) == set(COMMANDS)


def test_folders_named_in_contributing_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add an op")[0]
    folders = {f"/{path.parent.relative_to(ROOT)}/" for path in SOURCES} | {"/benchmarks/results/", "/docs/"}
    named = re.findall(r"`((?:\w+/)+)`", table)
    assert not [name for name in named if not any(f"/{name}" in folder for folder in folders)]


def test_diff_of_an_option_in_contributing_is_true() -> None:
    """Each added line of the example is in the file that it names, however it is broken into lines."""
    diff = re.search(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)[1]
    text = ""
    for line in diff.splitlines():
        if line[0] == " " and (ROOT / line[1:]).is_file():
            text = " ".join((ROOT / line[1:]).read_text().split())
        elif line[0] == "+":
            parts = " ".join(line[1:].split()).split("...")
            assert all(part.strip() in text for part in parts), line
