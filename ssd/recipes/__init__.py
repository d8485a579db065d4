"""Recipes: the configurations with which known systems reached known results, as JSON files beside this one.

The first key of each, `about`, tells what it is, the command, the result, and who reached it. Standard library only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssd.config import near
from ssd.errors import ConfigError

_FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def about(name: str) -> dict[str, Any]:
    """What a recipe says of itself: what, command, result, by, source, differs."""
    return dict(json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))["about"])


def find(source: str) -> Path:
    """The file of a recipe, given by its name, as a file, or as the folder of a run.

    Raises:
        ConfigError: there is neither; the near name is suggested.
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
        f"{near(source, names())}"
    )


def listing() -> str:
    """All recipes, for people."""
    blocks = []
    for name in names():
        said = about(name)
        lines = [name, f"  {said['what']}", f"  {said['command']}", f"  {said['by']}: {said['result']}"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
