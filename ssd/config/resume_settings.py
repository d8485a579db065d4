"""Settings of a resumed run: those in its config.json, overridden by the flags given with --resume.

Standard library only, so that invalid settings are reported before torch is imported.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig, flag_of, load_config

# The weights and the optimizer state in a checkpoint, or the choice of evaluation images, depend on these.
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
    "val_share",
)
_COMMAND_ONLY = ("resume", "output_dir", "test_only", "quiet")  # belong to one command, not to the run
_PATHS = ("data_path", "weights", "weights_backbone")


def run_folder_of(source: str | Path) -> Path:
    """Returns the run folder for a run folder or for a checkpoint inside it."""
    path = Path(source)
    return path if path.is_dir() else path.parent


def run_to_resume(source: str) -> str:
    """Returns a run folder or checkpoint unchanged, and for a folder of runs the one saved last, which is printed.

    Runs whose checkpoints are all empty or cut off are passed over, with a warning.
    """
    folder = Path(source)
    saved = [path for name in ("last.pt", "best.pt") for path in folder.glob(f"*/{name}")]
    if (folder / "config.json").exists() or not saved:
        return source
    saved.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    whole = {path.parent for path in saved if zipfile.is_zipfile(path)}  # its directory is at the end
    runs = list(dict.fromkeys(path.parent for path in saved))
    newest = next((run for run in runs if run in whole), runs[0])
    for run in runs[: runs.index(newest)]:
        print(f"warning: --resume {source}: {run} is passed over, because its checkpoints are cut off or damaged")
    print(f"--resume {source}: the run saved last is {newest}")
    return str(newest)


def recorded_settings(source: str | Path) -> dict[str, Any] | None:
    """Reads the settings recorded in a run folder; returns None if there is no config.json."""
    file = run_folder_of(source) / "config.json"
    if not file.is_file():
        return None
    recorded = {name: value for name, value in load_config(file).items() if name not in _COMMAND_ONLY}
    if recorded.get("dataset") == "shapes":
        recorded.pop("data_path", None)  # earlier runs recorded one, which was not read
    return recorded


def configured_settings(file: Path) -> dict[str, Any]:
    """Reads a recipe or the config.json of a run, without the settings that belong to one command only."""
    is_run = file.name == "config.json" and (file.parent / "train.csv").is_file()
    return recorded_settings(file) or {} if is_run else load_config(file)


def resumed_settings(resume: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Merges the recorded settings of a run with those given on the command line, which take precedence.

    Raises:
        ConfigError: A given setting cannot change within a run.
    """
    recorded = recorded_settings(resume)
    if recorded is None:
        if Path(resume).exists() and not given.keys() & {"data_path", "dataset"}:
            raise ConfigError(
                f"--resume {resume}: {run_folder_of(resume) / 'config.json'} does not exist, which records the settings of "
                "the run; give them again, --data-path first"
            )
        return dict(given)
    for name in _FIXED:
        if name in given and name in recorded and not _same(name, given[name], recorded[name]):
            raise ConfigError(_fixed_setting_message(resume, name, given[name], recorded[name]))
    if "dataset" not in given and not _same("data_path", given.get("data_path"), recorded.get("data_path")):
        if given.get("data_path") is not None:
            recorded.pop("dataset", None)  # the new folder may have a different format
    return {**recorded, **given}


def changed_settings(resume: str, config: TrainConfig) -> list[str]:
    """Lists the settings of a resumed run that differ from the recorded ones, as `--lr 0.002 -> 0.0002`.

    Raises:
        ConfigError: One of them cannot change within a run.
    """
    recorded, changes = recorded_settings(resume) or {}, []
    for name, value in plain_settings(config).items():
        if name in _COMMAND_ONLY or name not in recorded or _same(name, value, recorded[name]):
            continue
        if name in _FIXED:
            raise ConfigError(_fixed_setting_message(resume, name, value, recorded[name]))
        changes.append(f"{flag_of(name)} {recorded[name]} -> {value}")
    return changes


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """Returns the settings as JSON values, with absolute paths so that they are valid in any working directory."""
    values = dataclasses.asdict(config)
    for name in _PATHS:
        if values[name] is not None:
            values[name] = _absolute(values[name])
    return dict(json.loads(json.dumps(values)))


def record(config: TrainConfig, folder: Path) -> Path | None:
    """Writes config.json into a run folder; returns the new path of a previous one that differed, or None."""
    from ssd.common.atomic_write import write_text

    values = {**plain_settings(config), **{name: _DEFAULTS[name] for name in _COMMAND_ONLY}}
    file, previous = folder / "config.json", None
    text = json.dumps(values, indent=2) + "\n"
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        number = next(n for n in range(1, 10_000) if not (folder / f"config.{n}.json").exists())
        previous = folder / f"config.{number}.json"
        file.replace(previous)
    write_text(file, text)
    return previous


_DEFAULTS = {f.name: f.default for f in dataclasses.fields(TrainConfig)}


def _absolute(value: str) -> str:
    return str(Path(value).absolute()) if Path(value).exists() else value  # else a name of torchvision's weights


def _same(name: str, one: Any, other: Any) -> bool:
    if name in _PATHS and isinstance(one, str) and isinstance(other, str):
        return Path(one).resolve() == Path(other).resolve()
    return bool(one == other)


def _fixed_setting_message(resume: str, name: str, given: Any, recorded: Any) -> str:
    changed = f"{flag_of(name)} {given} cannot be changed by --resume {resume}: the run has {recorded}, and"
    if name == "val_share":
        return f"{changed} has been trained on images that would be evaluated on, or the reverse. Omit {flag_of(name)}"
    last = run_folder_of(resume) / "last.pt"
    return (
        f"{changed} its weights and optimizer state depend on it. Omit {flag_of(name)}, or start a new run from its "
        f"weights with --weights {shlex.quote(str(last))}"
    )
