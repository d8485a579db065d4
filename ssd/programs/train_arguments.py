"""The command line of `ssd/train.py`, generated from the fields of `TrainConfig`. Standard library only."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from ssd import recipes
from ssd.common.console import package_version, program_name
from ssd.common.errors import ConfigError
from ssd.config import TrainConfig, check_folder, check_settings, flag, flag_of
from ssd.config.choices import CHOICES
from ssd.config.dataset_format import resolve_dataset
from ssd.config.resume_settings import configured_settings, recorded_settings, resumed_settings, run_to_resume
from ssd.config.setting_checks import check_length, check_path, check_paths, suggestion
from ssd.config.torchvision_flags import add_torchvision_flags, pop_torchvision_flags
from ssd.weight_files.names import full_name

_FREE_FORM = ("model_options", "dataset_options", "augmentation_options")
# Common locations of a data set; the last is the default of torchvision's script.
_COMMON_LOCATIONS = {
    "coco": ("coco", "data/coco", "/datasets01/COCO/022719"),
    "voc": ("VOCdevkit", "data/VOCdevkit", "voc", "data/voc"),
}


def parse_args(argv: list[str] | None = None, description: str = "") -> TrainConfig:
    """Returns the configuration for a command line: flags take precedence over `--config`, and that over defaults."""
    parser = _build_parser(description)
    with silence_other_ranks():
        parsed, unknown = parser.parse_known_args(argv)
        if unknown:
            hint = suggestion(unknown[0], list(parser._option_string_actions))
            parser.error(f"unknown argument {unknown[0][:60]}{hint}")
        given = vars(parsed)
        source, trusted = given.pop("config"), given.pop("trust_config") or "dataset" in given
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                config = _configuration(given, source)
            if not trusted:
                reject_code(config.dataset)
        except (ConfigError, TypeError) as error:
            print(said.getvalue(), end="")
            parser.error(str(error))
        config.first_lines = said.getvalue()  # type: ignore[misc]  # of this instance only
        lines = config.first_lines.splitlines(keepends=True)
        print("".join(line for line in lines if not config.quiet or line.startswith("warning: ")), end="")
    return config


def _configuration(given: dict[str, Any], source: str | None) -> TrainConfig:
    """Returns the configuration for the flags that were given and --config.

    Raises:
        ConfigError: An unknown setting or an invalid value.
    """
    for notice in pop_torchvision_flags(given):
        print(notice)
        given.setdefault("defaults", "torchvision")  # the command was written for its script
    check_path("--config", source or "")
    check_paths(given)
    values = configured_settings(recipes.find(source)) if source else {}
    if "resume" in values:  # the settings of that run are loaded, too
        given.setdefault("resume", values.pop("resume"))
    if resume := given.get("resume"):
        given["resume"] = resume = run_to_resume(resume)
    base = {**(recorded_settings(resume) or {}), **values} if resume else values
    check_length(given, base)
    for name in _FREE_FORM:
        if name in given:
            given[name] = {**base.get(name, {}), **dict(key_value(name, item) for item in given[name])}
    values.update(given)
    config = TrainConfig.of(with_data_settings(resumed_settings(resume, values) if resume else values))
    check_settings(config)
    return config


def reject_code(dataset: str) -> None:
    """Raises ConfigError if a configuration file sets the data set to module:function, which would run that code."""
    if ":" in dataset:
        raise ConfigError(
            f"the configuration file sets the data set to {dataset!r}, which would run code of that module. If you trust "
            f"it, add --trust-config or --dataset {dataset}"
        )


class silence_other_ranks:
    """Discards the output of all processes of torchrun on a machine but the first, which would repeat it."""

    def __enter__(self) -> None:
        self.streams = sys.stdout, sys.stderr
        if os.environ.get("LOCAL_RANK", "0") != "0":
            sys.stdout = sys.stderr = open(os.devnull, "w")

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self.streams


def with_data_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings with the folder and format of the data set filled in; other defaults depend on them.

    Raises:
        ConfigError: The folder does not exist or has no known format.
    """
    data = TrainConfig(dataset=values.get("dataset", "auto"), data_path=values.get("data_path"))
    data.data_path = data.data_path or find_data(data.dataset)
    check_folder(data.data_path)
    resolve_dataset(data)
    options = dict(values.get("dataset_options", {}))
    if values.get("weights"):
        values = {**values, "weights": full_name(values["weights"], values.get("model"))}
    if data.dataset == "coco" and "_Weights.COCO" in (values.get("weights") or ""):
        options.setdefault("labels", "ids")  # torchvision's detectors use COCO's category ids as labels, 91 classes
    return {**values, "dataset": data.dataset, "data_path": data.data_path, "dataset_options": options}


def find_data(dataset: str) -> str | None:
    """Returns the folder of a data set without --data-path: $SSD_DATA_PATH, or the first common location that exists.

    Raises:
        ConfigError: Neither exists; the message lists the locations.
    """
    if dataset not in _COMMON_LOCATIONS:
        return None
    if path := os.environ.get("SSD_DATA_PATH"):
        return path
    for location in _COMMON_LOCATIONS[dataset]:
        if Path(location).is_dir():
            return location
    raise ConfigError(
        f"--data-path is required for --dataset {dataset}: $SSD_DATA_PATH is not set, and none of "
        f"{', '.join(_COMMON_LOCATIONS[dataset])} exists"
    )


def _build_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name("train"),
        usage="%(prog)s [--config RECIPE] [options]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="RECIPE", help="name of a recipe, configuration file, or folder of a previous run"
    )
    parser.add_argument(
        "--trust-config",
        action="store_true",
        help="allow the configuration file to run code, as a data set module:function does",
    )
    parser.add_argument("--version", action="version", version=f"ssd {package_version()}")
    parser.add_argument(
        "--list-options",
        action=_ListOptions,
        nargs=0,
        default=argparse.SUPPRESS,
        help="list the options of models, data sets and augmentation, and exit",
    )
    parser.add_argument(
        "--list-recipes", action=_ListRecipes, nargs=0, default=argparse.SUPPRESS, help="list the recipes and exit"
    )
    group: Any = parser
    for f in dataclasses.fields(TrainConfig):
        if "group" in f.metadata:
            group = parser.add_argument_group(f.metadata["group"])
        _add_flag(group, f)
    add_torchvision_flags(parser)
    return parser


def _add_flag(parser: Any, f: dataclasses.Field[Any]) -> None:
    """Adds the flag of one field; an absent flag leaves no value, so that the configuration file applies."""
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
        metavar = "X" if "float" in kind else "N" if "int" in kind else "NAME" if f.name in CHOICES else f.name.upper()
        options |= {"type": _PARSERS.get(kind, str), "metavar": f.metadata.get("metavar", metavar)}
        options |= {"type": _or_none(str, "none")} if f.name == "data_path" else {}
        options |= {"nargs": "?", "const": f.metadata["const"]} if "const" in f.metadata else {}
    parser.add_argument(*names, **options)


def _default(f: dataclasses.Field[Any]) -> str:
    """Returns the default as --help shows it; where it depends on the data set, with the demo's and torchvision's."""
    if "torchvision" in f.metadata:
        text = f"auto; shapes: {f.default}; torchvision: {f.metadata['torchvision']}".replace("None", "none")
    elif f.default is dataclasses.MISSING or f.default is None or f.default is False:
        return ""
    else:
        text = str(f.default)
    return f" (default: {text})".replace("%", "%%")


def _or_none(kind: type, *words: str) -> Any:
    def parse(text: str) -> Any:
        return None if text.lower() in (words or ("none", "")) else kind(text)

    parse.__name__ = kind.__name__  # argparse prints it: "invalid float value"
    return parse


_PARSERS: dict[str, Any] = {
    "int": int,
    "float": float,
    "int | None": _or_none(int),
    "float | None": _or_none(float),
    "str | None": _or_none(str),
}


def key_value(name: str, item: str) -> tuple[str, Any]:
    """Splits KEY=VALUE; the value is parsed as JSON if possible, otherwise it is a string."""
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise ConfigError(f"{flag_of(name)} must be KEY=VALUE, got {item!r}")
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
        from ssd.programs.option_listing import listing  # imports torch

        print(listing())
        parser.exit()
