"""Recipes: configurations that reproduce results of known SSD systems, as JSON files in this folder.

The first key of each, `about`, documents the system, the command, the result and its source. Standard library only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssd.common.errors import ConfigError
from ssd.config import did_you_mean

_FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Returns the names of all recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def about(name: str) -> dict[str, Any]:
    """Returns the documentation of a recipe: what, command, result, by, source, differs."""
    return dict(json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))["about"])


def find(source: str) -> Path:
    """Returns the configuration file for the name of a recipe, a file or the folder of a run.

    Raises:
        ConfigError: None of them exists; the message suggests the closest name.
    """
    path = Path(source)
    if path.is_file():
        return path
    if (path / "config.json").is_file():
        return path / "config.json"
    if source in names():
        return _FOLDER / f"{source}.json"
    raise ConfigError(
        f"--config must be a file, a run folder or one of the recipes {', '.join(names())}, got {source!r}"
        f"{did_you_mean(source, names())}"
    )


def listing() -> str:
    """Returns a list of all recipes for printing."""
    blocks = []
    for name in names():
        facts = about(name)
        lines = [name, f"  {facts['what']}", f"  {facts['command']}", f"  {facts['by']}: {facts['result']}"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
