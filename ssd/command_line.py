"""The command line of `ssd/train.py`, made of the fields of the configuration. Standard library only."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from ssd import recipes
from ssd.config import TrainConfig, check_folder, flag
from ssd.config.resume_settings import configured_settings, recorded_settings, resumed_settings
from ssd.config.setting_checks import check_path, check_paths, meant
from ssd.config.torchvision_flags import add_torchvision_flags, notes
from ssd.console import package_version, program_name
from ssd.dataset_format import resolve_dataset
from ssd.errors import ConfigError

_FREE_FORM = ("model_options", "dataset_options", "augmentation_options")
# Where people keep a data set; the last is where torchvision's script looks for COCO.
PLACES = {
    "coco": ("coco", "data/coco", "/datasets01/COCO/022719"),
    "voc": ("VOCdevkit", "data/VOCdevkit", "voc", "data/voc"),
}


def parse_args(argv: list[str] | None = None, description: str = "") -> TrainConfig:
    """Make a configuration of the command line; flags win over `--config`, which wins over the defaults."""
    parser = _parser(description)
    with quiet_but_on_first():
        found, unknown = parser.parse_known_args(argv)
        if unknown:
            parser.error(f"unknown argument {unknown[0][:60]}{meant(unknown[0], list(parser._option_string_actions))}")
        given = vars(found)
        source, trusted = given.pop("config"), given.pop("trust_config") or "dataset" in given
        for note in notes(given):
            print(note)
            given.setdefault("defaults", "torchvision")  # a command written for its script
        try:
            check_path("--config", source or "")
            check_paths(given)
            values = configured_settings(recipes.find(source)) if source else {}
            resume = given.get("resume")
            base = {**(recorded_settings(resume) or {}), **values} if resume else values
            for name in _FREE_FORM:
                if name in given:
                    given[name] = {**base.get(name, {}), **dict(key_value(name, item) for item in given[name])}
            values.update(given)
            config = TrainConfig.of(with_data(resumed_settings(resume, values) if resume else values))
            config.check()
            if not trusted:
                refuse_code(config.dataset)
        except (ConfigError, TypeError) as error:
            parser.error(str(error))
    return config


def refuse_code(dataset: str) -> None:
    """Raise ConfigError for a data set that a file names as code to be run, as module:function."""
    if ":" in dataset:
        raise ConfigError(
            f"the configuration file names the data set {dataset!r}, which is code that would run. If you know it, say so "
            f"with --trust-config, or give --dataset {dataset}"
        )


class quiet_but_on_first:
    """Keeps the processes of torchrun from all saying the same: only the first of each machine speaks."""

    def __enter__(self) -> None:
        self.kept = sys.stdout, sys.stderr
        if os.environ.get("LOCAL_RANK", "0") != "0":
            sys.stdout = sys.stderr = open(os.devnull, "w")

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self.kept


def with_data(values: dict[str, Any]) -> dict[str, Any]:
    """Settings with the data set's folder and format in them, on which the other defaults depend.

    Raises:
        ConfigError: there is no such folder, or it has no known format.
    """
    asked = TrainConfig(dataset=values.get("dataset", "auto"), data_path=values.get("data_path"))
    asked.data_path = asked.data_path or find_data(asked.dataset)
    check_folder(asked.data_path)
    resolve_dataset(asked)
    options = dict(values.get("dataset_options", {}))
    if asked.dataset == "coco" and "_Weights.COCO" in (values.get("weights") or ""):
        options.setdefault("labels", "ids")  # torchvision's detectors have COCO's ids as labels, 91 classes
    return {**values, "dataset": asked.dataset, "data_path": asked.data_path, "dataset_options": options}


def find_data(dataset: str) -> str | None:
    """The folder of a data set that no flag names: $SSD_DATA_PATH, or the first usual place that exists.

    Raises:
        ConfigError: there is none; the message lists where it was looked for.
    """
    if dataset not in PLACES:
        return None
    if path := os.environ.get("SSD_DATA_PATH"):
        return path
    for place in PLACES[dataset]:
        if Path(place).is_dir():
            return place
    raise ConfigError(
        f"--data-path must name the folder of the data set {dataset!r}, got none; neither $SSD_DATA_PATH nor "
        f"{', '.join(PLACES[dataset])} is there"
    )


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name("train"),
        usage="%(prog)s [--config RECIPE] [flags]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="RECIPE", help="name of a recipe, a file, or another run's folder")
    parser.add_argument(
        "--trust-config",
        action="store_true",
        help="let the configuration file name code to run: a data set module:function",
    )
    parser.add_argument("--version", action="version", version=f"ssd {package_version()}")
    parser.add_argument(
        "--list-options",
        action=_ListOptions,
        nargs=0,
        default=argparse.SUPPRESS,
        help="list the KEYs of --model-option, --dataset-option and --augmentation-option, and stop",
    )
    parser.add_argument(
        "--list-recipes", action=_ListRecipes, nargs=0, default=argparse.SUPPRESS, help="list the recipes and stop"
    )
    group: Any = parser
    for f in dataclasses.fields(TrainConfig):
        if "group" in f.metadata:
            group = parser.add_argument_group(f.metadata["group"])
        _add_flag(group, f)
    add_torchvision_flags(parser)
    return parser


def _add_flag(parser: Any, f: dataclasses.Field[Any]) -> None:
    """Add the flag of one field; absent flags leave no trace, so that the config file shows through."""
    names = [n for n in (f.metadata.get("short"), f.metadata.get("flag", flag(f.name))) if n]
    options: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS, "help": f.metadata["help"] + _default(f)}
    kind = str(f.type)
    if kind == "bool":
        options["action"] = argparse.BooleanOptionalAction
    elif f.name in _FREE_FORM:
        options |= {"action": "append", "metavar": "KEY=VALUE"}
    elif kind.startswith("list"):
        options |= {"type": int, "nargs": "+", "metavar": "N"}
    else:
        options |= {"type": _READERS.get(kind, str), "metavar": f.name.upper()}
    parser.add_argument(*names, **options)


def _default(f: dataclasses.Field[Any]) -> str:
    """The default as --help shows it: the demo's, and torchvision's where it differs."""
    shown = "" if isinstance(f.default, (dataclasses._MISSING_TYPE, type(None))) else f"{f.default}"
    if "torchvision" in f.metadata:
        shown = f"{f.default} for shapes, else chosen; torchvision: {f.metadata['torchvision']}".replace("None", "none")
    return f" (default: {shown})".replace("%", "%%") if shown else ""


def _or_none(kind: type) -> Any:
    def read(text: str) -> Any:
        return None if text.lower() in ("none", "") else kind(text)

    read.__name__ = kind.__name__  # argparse names it in "invalid float value"
    return read


_READERS: dict[str, Any] = {
    "int": int,
    "float": float,
    "int | None": _or_none(int),
    "float | None": _or_none(float),
    "str | None": _or_none(str),
}


def key_value(name: str, item: str) -> tuple[str, Any]:
    """Split KEY=VALUE; the value is JSON where it can be read as JSON, else the text itself."""
    key, equals, value = item.partition("=")
    if not equals or not key:
        named = next(f.metadata["flag"] for f in dataclasses.fields(TrainConfig) if f.name == name)
        raise ConfigError(f"{named} must be KEY=VALUE, got {item!r}")
    try:
        return key.replace("-", "_"), json.loads(value)
    except (ValueError, RecursionError):
        return key.replace("-", "_"), value


class _ListRecipes(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(recipes.listing())
        parser.exit()


class _ListOptions(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ssd.engine.option_listing import listing  # imports torch

        print(listing())
        parser.exit()
