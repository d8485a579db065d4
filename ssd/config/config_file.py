"""Loads configuration files: JSON, YAML or TOML, by suffix. Standard library only, except for YAML."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ssd.common.errors import ConfigError
from ssd.config.choices import CHOICES
from ssd.config.renamed_options import renamed_settings
from ssd.config.setting_checks import check_paths, check_type, suggestion
from ssd.config.train_config import TrainConfig

_MAX_FILE_BYTES = 1 << 20  # of JSON; the parsers of YAML and TOML are some hundred times slower
_MAX_SLOW_BYTES = 1 << 16
_SWITCH = {True: "on", False: "off"}
_MAX_DOTS = 200  # in a line of TOML: the time for a.b.c.d grows with the square of its parts
# Numbers of YAML 1.2. In 1.1, whose parser PyYAML is, 010 is 8, 1:30 is 90, and 1e-4 is a string.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9]*)?[eE][-+]?[0-9]+$")


def load_config(path: str | Path) -> dict[str, Any]:
    """Reads the settings in a recipe or a config.json.

    Raises:
        ConfigError: The file cannot be read, or has an unknown key or a value of the wrong type.
    """
    values = renamed_settings(read_config_file(Path(path)))
    kinds = {f.name: str(f.type) for f in dataclasses.fields(TrainConfig)}
    if values.pop("about", None) is not None or len(values) > len(kinds) // 2:
        # A recipe, or the config.json of a run: it is complete, so nothing is chosen automatically.
        values.setdefault("defaults", "torchvision")
    for key, value in values.items():
        if key not in kinds:
            raise ConfigError(f"--config {path}: unknown key {str(key)[:60]!r}{suggestion(str(key), kinds)}")
        if isinstance(value, bool) and kinds[key] == "str":  # YAML's on and off
            values[key] = value = _SWITCH[value] if _SWITCH[value] in CHOICES.get(key, ()) else value
        check_type(f"--config {path}: {key}", kinds[key], value)
    check_paths(values)
    return values


def read_config_file(path: Path) -> dict[str, Any]:
    """Reads the keys and values of a configuration file.

    Raises:
        ConfigError: The file cannot be read or parsed, or its top level is not a mapping.
    """
    where = f"--config {path}"
    try:
        limit = _MAX_SLOW_BYTES if path.suffix.lower() in (".yaml", ".yml", ".toml") else _MAX_FILE_BYTES
        if path.stat().st_size > limit:
            raise ConfigError(
                f"{where}: a configuration file of this format has at most {limit} bytes, got {path.stat().st_size}"
            )
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{where} must be a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}") from error
    try:
        values = _reader(path)(text)
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply") from None
    except ConfigError:
        raise
    except Exception as error:  # each parser raises its own types; all of them mean a malformed file
        raise ConfigError(f"{where} cannot be parsed: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must contain a mapping of settings at the top level, got a {type(values).__name__}")
    return values


def _reader(path: Path) -> Callable[[str], Any]:
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return _read_yaml
    if suffix == ".toml":
        if importlib.util.find_spec("tomllib") is None:
            raise ConfigError(f"--config {path}: TOML needs Python 3.11 or newer; use JSON or YAML instead")
        import tomllib

        def read_toml(text: str) -> Any:
            if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
                raise ConfigError(f"--config {path} has a line with more than {_MAX_DOTS} dots")
            return tomllib.loads(text)

        return read_toml
    return partial(json.loads, object_pairs_hook=_distinct)


def _distinct(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    values: dict[Any, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {str(key)[:60]!r} is set twice")
        values[key] = value
    return values


def _read_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        """Parses numbers as YAML 1.2 does, dates as strings, and rejects aliases and keys that are set twice."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ConfigError("aliases (*name) are not allowed")  # a few nested ones expand to gigabytes
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            pairs = (
                (self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value
            )
            return _distinct(pairs)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":timestamp"))]
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("+-0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("+-0123456789"))
    return yaml.load(text, Loader)
