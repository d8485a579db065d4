"""Runs the command lines of README and docs, page by page, on small data; NOT_RUN says why others are not run.

What they name (FOLDER, runs/NAME, photos/ ...) exists in a folder that `documented.write_all` prepares. ADDED makes them
short. A command that is new in the docs runs, too; if it cannot, it belongs in NOT_RUN.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.documented import ROOT, SHORT_TRAINING, environment, write_all
from tests.processes import run_processes, run_python
from tests.ssd.serving import serve_process
from tests.test_readme import TEXTS, commands_of

pytestmark = pytest.mark.slow


RUNNABLE = r"(?:python|ssd|torchrun) .*"

# Patterns of commands that do not run here, and why. Only RUNNABLE ones can do without an entry.
NOT_RUN = {
    r"(?:SSD_OPS_\w+=\w+ |uv )?pip install .*": "installs packages; .ci/run builds and installs the wheel",
    r"pytest.*": "runs the tests",
    r"python -m build": "builds packages; tests/build does",
    r"python -m tests\.sanitizers": "a stage of .ci/run",
    r"pre-commit install": "changes the checkout",
    r"make docs": "needs MkDocs; a stage of .ci/run builds the site",
    r"cmake .*": "compiles; tests/build does",
    r"python tests/emu/check_resources\.py": "needs nvcc",
    r"python (?:-W ignore )?benchmarks/.*": "takes minutes or needs a GPU; tests/benchmarks runs small cases",
    r"torchrun .* --config torchvision_ssd300_coco .*": "VGG in 8 processes; tests/ssd/test_torchvision_commands.py",
    r"python ssd/train\.py .*(?:ssd300_vgg16|ssd300_resnet50|ssd300_mAP).*": "20 s for a step; tests/ssd/test_recipes.py",
    r"python docs/examples/ray_detect\.py .*": "needs Ray; tests/ssd/test_ray_example.py",
    r'python -c "import sys, numpy, tensorflow;.*': "needs TensorFlow",
    r"ssd predict runs/NAME --source 0": "needs a camera",
    r"ssd replay .*": "needs a run that failed; tests/ssd/test_learning_options.py",
    r"ssd export .* --to aoti .*": "compiles for a minute; tests/build/check_cpp.py",
    r"curl .*": "runs beside the first server, see serve_and_ask",
}
# What makes a command short, by its first words.
ADDED = {
    "python ssd/train.py --list": [],
    "python ssd/train.py --resume": ["--iterations", "2"],
    "python ssd/train.py --": SHORT_TRAINING,
    "python ssd/train.py": [*SHORT_TRAINING, "--dataset-option", "size=4"],
    "torchrun --nproc_per_node=8 --max-restarts=3 ssd/train.py": SHORT_TRAINING,
}
# Files that a command must write, as patterns, by its first words.
WRITTEN = {
    "ssd data check FOLDER --json found.json": ["found.json", "figures", "repaired/annotations"],
    "ssd data review runs/NAME --splits": ["review/review.html", "review/cvat.xml", "review/label_studio.json"],
    "ssd data review runs/first": ["completed/annotations", "runs/first/review/review.json"],
    "ssd data pack": ["OUTPUT/train-000000.tar"],
    "python ssd/train.py --data-path FOLDER --ignore": ["runs/first/summary.html", "runs/first/last.pt"],
    "torchrun --nproc_per_node=8 --max": ["runs/coco/best.pt"],
    "torchrun --nproc_per_node 8 -m ssd predict": ["found/parts/part-00001-of-00002.jsonl", "found/detections.json"],
    "ssd convert ssd300_mAP": ["for_torchvision.pth"],
    "ssd convert SSD300": ["ssd300.safetensors"],
    "ssd convert weights.npz": ["weights.safetensors"],
    "ssd predict runs/NAME photos/": ["predictions*/1-a.jpg", "predictions*/detections.json"],
    "ssd eval runs/NAME --save": ["evaluation/confusion.png", "evaluation/pr.png", "evaluation/false_positives.png"],
    "ssd export runs/ssd_tiny-shapes-1 --to onnx": ["ssd_tiny-shapes-1.onnx"],
    "ssd export runs/ssd_tiny-shapes-1 --to pt2": ["ssd_tiny-shapes-1.pt2"],
}


def new_commands() -> dict[str, list[str]]:
    """Commands of each page that no page before has."""
    seen: set[str] = set()
    pages = {}
    for page, text in TEXTS.items():
        pages[page] = [c for c in dict.fromkeys(commands_of(text)) if c not in seen]
        seen.update(pages[page])
    return pages


PAGES = new_commands()


def is_run(command: str) -> bool:
    return bool(re.fullmatch(RUNNABLE, command)) and not any(re.fullmatch(pattern, command) for pattern in NOT_RUN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("documented"))


@pytest.mark.parametrize("page", [page for page, commands in PAGES.items() if any(map(is_run, commands))])
def test_commands_run(page: str, folder: Path) -> None:
    for command in filter(is_run, PAGES[page]):
        words = shlex.split(command) + by_first_words(ADDED, command)
        if words[:2] == ["ssd", "serve"] and words[2:] != ["--help"]:
            serve_and_ask(words[2:], folder)
            continue
        run = run_by_torchrun if words[0] == "torchrun" else run_alone
        shutil.rmtree(folder / "found", ignore_errors=True)
        start = time.time()
        code, said = run(words, folder)
        assert code == 0, f"{command}\n{said[-3000:]}"
        missing = [name for name in by_first_words(WRITTEN, command) if not is_written(folder, name, start)]
        assert not missing, f"{command} wrote no {missing}"


def test_python_blocks_with_files_run(folder: Path) -> None:
    """Runs the blocks marked `py`; tests/test_readme.py runs those marked `python`, which need no files."""
    blocks = re.findall(r"^```py\n(.*?)^```", "\n".join(TEXTS.values()), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        done = run_python("-c", block, folder=folder, environment=environment(folder))
        assert done.returncode == 0, f"{block}\n{done.stderr[-3000:]}"


def test_tables_name_commands_of_the_docs() -> None:
    commands = [command for page in PAGES.values() for command in page]
    listed = [c for c in commands if any(re.fullmatch(pattern, c) for pattern in NOT_RUN)]
    assert not [c for c in commands if c not in listed and not is_run(c)], "NOT_RUN does not say why these do not run"
    assert not [p for p in NOT_RUN if not any(re.fullmatch(p, command) for command in commands)]
    assert not [start for start in (*ADDED, *WRITTEN) if not any(c.startswith(start) for c in filter(is_run, commands))]


def is_written(folder: Path, pattern: str, start: float) -> bool:
    """Returns whether a file is newer than a time: commands of other pages may have written it, too."""
    return any(path.stat().st_mtime >= start for path in folder.glob(pattern))


def by_first_words(table: dict[str, list[str]], command: str) -> list[str]:
    return next((value for start, value in table.items() if command.startswith(start)), [])


def run_alone(words: list[str], folder: Path) -> tuple[int, str]:
    words = ["-m", *words] if words[0] == "ssd" else words[1:]
    if words[0].endswith(".py"):
        words[0] = str(folder / words[0])
    done = run_python(*words, folder=folder, environment=environment(folder))
    return done.returncode, done.stdout + done.stderr


def run_by_torchrun(words: list[str], folder: Path) -> tuple[int, str]:
    """Runs the command in 2 processes with torchrun's environment variables."""
    start = next(i for i, word in enumerate(words) if word == "-m" or word.endswith(".py"))
    ended = run_processes(folder / "said", run_rank, folder, words[start:])
    return max(abs(p.code) for p in ended), "".join(p.out + p.err for p in ended)


def run_rank(folder: Path, words: list[str]) -> None:
    os.chdir(folder)
    os.environ.update({**environment(folder), **{name: os.environ[name] for name in ("RANK", "WORLD_SIZE")}})
    sys.path.insert(0, str(ROOT))
    sys.argv = words[1:] if words[0] == "-m" else words
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


def serve_and_ask(words: list[str], folder: Path) -> None:
    """Starts the server on a free port, and asks it as curl in the docs does."""
    if "--port" in words:
        del words[words.index("--port") :][:2]
    with serve_process(Path(words[0]), *words[1:], folder=folder) as served:
        assert httpx.get(f"http://127.0.0.1:{served.port}/", timeout=60).status_code == 200
        (curl,) = [c for page in PAGES.values() for c in page if c.startswith("curl ")]
        if shutil.which("curl"):
            asked = shlex.split(curl.replace(":8000", f":{served.port}"))
            done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
            assert "error" not in json.loads(done.stdout)["results"][0]
