"""Hooks of mkdocs: draw the figures before a build, and write tables of measured times where a page marks their place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # mkdocs restores the path after this import
from benchmarks.measured import times  # noqa: E402


def on_pre_build(config: Any, **_: Any) -> None:
    """Draws the figure of each op, unless all are newer than the code that draws them."""
    copies = [ROOT / "ssd" / "recipes" / "bccd.png", *(ROOT / "benchmarks" / "results").glob("scaling-*.svg")]
    (ROOT / "docs" / "figures").mkdir(exist_ok=True)
    for path in copies:
        shutil.copy2(path, ROOT / "docs" / "figures" / path.name)

    code = (ROOT / "docs" / "draw.py").stat().st_mtime
    drawn = ROOT / "docs" / "ops" / "figures" / "render_images.svg"  # the last one
    if not drawn.exists() or drawn.stat().st_mtime < code:
        subprocess.run([sys.executable, "-m", "docs.draw"], cwd=ROOT, check=True)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces `<!-- times: PREFIX, ... -->` by the measured cases whose names begin so, `<!-- help: train -->` by help."""
    markdown = re.sub(r"<!-- times: (.*?) -->", lambda m: times(tuple(m[1].split(", "))), markdown)
    return re.sub(r"<!-- help: (.*?) -->", lambda m: help_of(m[1].split()), markdown)


def help_of(command: list[str]) -> str:
    """Returns the help text of a command of the program ssd, as a block."""
    run = [sys.executable, "-m", "ssd", *command, "--help"]
    done = subprocess.run(
        run, cwd=ROOT, env={**os.environ, "COLUMNS": "100"}, check=True, text=True, capture_output=True
    )
    return f"```text\n{done.stdout.rstrip()}\n```"
