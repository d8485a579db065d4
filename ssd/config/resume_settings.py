"""The settings of a run that goes on: those of its own config.json, changed by what is given beside --resume.

Standard library only, so that mistakes are answered at once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd.config import TrainConfig, flag_of, load_config
from ssd.errors import ConfigError

# What the weights and the state of the optimizer in a checkpoint depend on.
_FIXED = (
    "model",
    "preset",
    "image_size",
    "model_options",
    "fit_priors",
    "weights",
    "weights_backbone",
    "trainable_backbone_layers",
    "freeze",
    "opt",
    "start_epoch",
)
_OF_ONE_COMMAND = ("resume", "output_dir", "test_only")  # not settings of the run
_PATHS = ("data_path", "weights", "weights_backbone")


def run_folder_of(source: str | Path) -> Path:
    """The run folder that --resume or --config names: itself, or that of a checkpoint in it."""
    path = Path(source)
    return path if path.is_dir() else path.parent


def recorded_settings(source: str | Path) -> dict[str, Any] | None:
    """Read the settings that a run has recorded, for a command of its own; None where there is no config.json."""
    file = run_folder_of(source) / "config.json"
    if not file.is_file():
        return None
    return {name: value for name, value in load_config(file).items() if name not in _OF_ONE_COMMAND}


def configured_settings(file: Path) -> dict[str, Any]:
    """Read a recipe, or what a run has recorded, without what only meant the command of that run."""
    of_a_run = file.name == "config.json" and (file.parent / "train.csv").is_file()
    return recorded_settings(file) or {} if of_a_run else load_config(file)


def resumed_settings(resume: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Join the settings of the run to resume with those that the command gives, which win.

    Raises:
        ConfigError: the command gives a setting that cannot change within a run.
    """
    recorded = recorded_settings(resume)
    if recorded is None:
        return dict(given)
    for name in _FIXED:
        if name in given and name in recorded and not _same(name, given[name], recorded[name]):
            raise ConfigError(_refusal(resume, name, given[name], recorded[name]))
    if "dataset" not in given and not _same("data_path", given.get("data_path"), recorded.get("data_path")):
        if given.get("data_path") is not None:
            recorded.pop("dataset", None)  # the other folder may have another format
    return {**recorded, **given}


def changed_settings(resume: str, config: TrainConfig) -> list[str]:
    """List the settings of a resumed run that differ from those recorded in its folder, as `--lr 0.002 -> 0.0002`.

    Raises:
        ConfigError: one of them cannot change within a run.
    """
    recorded, changes = recorded_settings(resume) or {}, []
    for name, value in plain_settings(config).items():
        if name in _OF_ONE_COMMAND or name not in recorded or _same(name, value, recorded[name]):
            continue
        if name in _FIXED:
            raise ConfigError(_refusal(resume, name, value, recorded[name]))
        changes.append(f"{flag_of(name)} {recorded[name]} -> {value}")
    return changes


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings as JSON holds them, with absolute paths, so that they mean the same in any working folder."""
    values = dataclasses.asdict(config)
    for name in _PATHS:
        if values[name] is not None:
            values[name] = _absolute(values[name])
    return dict(json.loads(json.dumps(values)))


def record(config: TrainConfig, folder: Path) -> Path | None:
    """Write config.json of a run folder; return where an older one with other settings has been kept, or None."""
    from ssd.atomic_write import write_text

    values = {**plain_settings(config), **{name: _DEFAULTS[name] for name in _OF_ONE_COMMAND}}
    file, kept = folder / "config.json", None
    text = json.dumps(values, indent=2) + "\n"
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        number = next(n for n in range(1, 10_000) if not (folder / f"config.{n}.json").exists())
        kept = folder / f"config.{number}.json"
        file.replace(kept)
    write_text(file, text)
    return kept


_DEFAULTS = {f.name: f.default for f in dataclasses.fields(TrainConfig)}


def _absolute(value: str) -> str:
    return str(Path(value).absolute()) if Path(value).exists() else value  # else a name, such as torchvision's


def _same(name: str, one: Any, other: Any) -> bool:
    if name in _PATHS and isinstance(one, str) and isinstance(other, str):
        return Path(one).resolve() == Path(other).resolve()
    return bool(one == other)


def _refusal(resume: str, name: str, given: Any, recorded: Any) -> str:
    folder = run_folder_of(resume)
    return (
        f"{flag_of(name)} {given} cannot be changed by --resume {resume}: the run has {recorded}, and its weights and the "
        f"state of its optimizer depend on it. Leave {flag_of(name)} out, or start a new run from its weights: --weights "
        f"{folder / 'last.pt'}"
    )
