"""The configuration of a training run: one typed dataclass, filled from flags or from the config.json of another run.

Standard library only, so that `--help` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATASETS = ("auto", "shapes", "voc", "coco", "yolo", "csv")
MODELS = (
    "ssd_tiny",
    "ssd300_vgg16",
    "ssd512_vgg16",
    *(f"ssd300_resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "ssdlite320_mobilenet_v2",
    "ssdlite320_mobilenet_v3_large",
)
AUGMENTATIONS = ("auto", "ssd", "ssdlite", "hflip", "none")
SCHEDULES = ("multisteplr", "cosineannealinglr")
OPTIMIZERS = ("sgd", "adamw")
_FREE_FORM = ("model_options", "dataset_options", "augmentation_options")


class ConfigError(ValueError):
    """A setting that cannot be meant; the message names it, what was expected and what came."""


@dataclass
class TrainConfig:
    """All settings of a run. The defaults are the demo: drawn shapes, a small model, a few minutes on a CPU."""

    dataset: str = field(
        default="auto",
        metadata={
            "help": f"data set: {', '.join(DATASETS)}, or module:function of your own; auto finds out the format of "
            "--data-path, and without one draws shapes"
        },
    )
    data_path: str | None = field(default=None, metadata={"help": "folder of the data set"})
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    val_split: str = field(default="val", metadata={"help": "split to evaluate on"})
    dataset_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "KEY=VALUE option of the data set, repeatable", "flag": "--dataset-option"},
    )
    model: str = field(default="ssd_tiny", metadata={"help": "model: " + ", ".join(MODELS)})
    preset: str = field(default="torchvision", metadata={"help": "rules of a known SSD system"})
    image_size: int | None = field(default=None, metadata={"help": "side of the input; default: the model's own"})
    model_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "KEY=VALUE option of the model or preset, repeatable", "flag": "--model-option"},
    )
    weights_backbone: str | None = field(
        default=None, metadata={"help": "backbone weights: a file or torchvision's name"}
    )
    fit_priors: bool = field(default=False, metadata={"help": "search prior sizes that fit the training objects"})
    data_augmentation: str = field(
        default="auto",
        metadata={"help": "augmentation: ssd, ssdlite, hflip, none, or auto: hflip for shapes, else ssd"},
    )
    augmentation_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "KEY=VALUE option of the augmentation, repeatable", "flag": "--augmentation-option"},
    )
    epochs: int = field(default=20, metadata={"help": "passes over the training images"})
    batch_size: int = field(default=16, metadata={"help": "images a step", "short": "-b"})
    workers: int = field(default=2, metadata={"help": "processes that load images", "short": "-j"})
    opt: str = field(default="adamw", metadata={"help": "optimiser: " + ", ".join(OPTIMIZERS)})
    lr: float = field(default=0.002, metadata={"help": "learning rate after the warm-up"})
    backbone_lr_factor: float = field(
        default=1.0, metadata={"help": "learning rate of the pretrained backbone, as a share of --lr; 0 freezes it"}
    )
    momentum: float = field(default=0.9, metadata={"help": "of SGD (beta 1 of AdamW)"})
    weight_decay: float = field(
        default=0.02, metadata={"help": "of weights; none for biases and norms", "short": "--wd"}
    )
    clip_grad_norm: float = field(default=10.0, metadata={"help": "largest norm of the gradient; 0: no limit"})
    lr_scheduler: str = field(default="cosineannealinglr", metadata={"help": "schedule: " + ", ".join(SCHEDULES)})
    lr_steps: list[int] = field(
        default_factory=lambda: [16, 22], metadata={"help": "epochs at which multisteplr drops"}
    )
    lr_gamma: float = field(default=0.1, metadata={"help": "factor of each drop"})
    warmup_iters: int = field(default=100, metadata={"help": "steps of linear warm-up"})
    ema_decay: float = field(default=0.99, metadata={"help": "decay of the running mean of weights; 0: none"})
    amp: bool = field(
        default=False, metadata={"help": "mixed precision: float16 on a GPU that lacks bfloat16, else bfloat16"}
    )
    channels_last: bool = field(default=False, metadata={"help": "NHWC memory format"})
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:1, ..."})
    eval_every: int = field(default=5, metadata={"help": "epochs between evaluations; the last epoch always has one"})
    eval_metric: str = field(
        default="auto", metadata={"help": "voc, voc07 (11 points), coco, or auto: as the data set"}
    )
    print_freq: int = field(default=20, metadata={"help": "steps between rows of train.csv"})
    pictures: int = field(default=8, metadata={"help": "evaluation images that are drawn"})
    seed: int = field(default=0, metadata={"help": "of weights, order and augmentation"})
    output_dir: str | None = field(default=None, metadata={"help": "run folder; default: runs/MODEL-DATASET-N"})
    resume: str | None = field(default=None, metadata={"help": "run folder or checkpoint to go on from"})
    test_only: bool = field(default=False, metadata={"help": "evaluate the checkpoint of --resume and stop"})

    def check(self) -> None:
        """Raise ConfigError for a setting that cannot be meant."""
        choices = {
            "dataset": DATASETS,
            "model": MODELS,
            "data_augmentation": AUGMENTATIONS,
            "lr_scheduler": SCHEDULES,
            "opt": OPTIMIZERS,
            "eval_metric": ("auto", "voc", "voc07", "coco"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known and not (name == "dataset" and ":" in value):
                raise ConfigError(
                    f"{_flag(name)} must be one of {', '.join(known)}, got {value!r}{_near(value, known)}"
                )
        for name in ("epochs", "batch_size", "eval_every", "print_freq"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{_flag(name)} must be at least 1, got {getattr(self, name)}")
        for name in (
            "workers",
            "seed",
            "warmup_iters",
            "pictures",
            "weight_decay",
            "clip_grad_norm",
            "backbone_lr_factor",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{_flag(name)} must not be negative, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ConfigError(f"--lr must be above 0, got {self.lr}")
        for name in ("momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{_flag(name)} must lie in [0, 1), got {getattr(self, name)}")
        if self.dataset in ("voc", "coco", "yolo", "csv") and self.data_path is None:
            raise ConfigError(f"--data-path must name the folder of the data set {self.dataset!r}, got none")
        if self.data_path is not None and not Path(self.data_path).is_dir():
            raise ConfigError(f"--data-path must be a folder, got {self.data_path!r}, which is none")
        if self.test_only and self.resume is None:
            raise ConfigError("--test-only needs --resume, the run folder or checkpoint to evaluate")

    @property
    def augmentation(self) -> str:
        """The augmentation meant; drawn shapes vary enough by themselves."""
        if self.data_augmentation != "auto":
            return self.data_augmentation
        return "hflip" if self.dataset == "shapes" or (self.dataset == "auto" and self.data_path is None) else "ssd"

    def save(self, path: Path) -> None:
        """Write the configuration as JSON that `--config` reads."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")


def load_config(path: str | Path) -> dict[str, Any]:
    """Read a config.json; unknown keys are refused and the near one is suggested."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error
    known = [f.name for f in dataclasses.fields(TrainConfig)]
    for key in values:
        if key not in known:
            raise ConfigError(f"--config {path}: unknown key {key!r}{_near(key, known)}")
    return dict(values)


def parse_args(argv: list[str] | None = None, description: str = "") -> TrainConfig:
    """Make a configuration of the command line; flags win over `--config`, which wins over the defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="config.json of another run")
    for f in dataclasses.fields(TrainConfig):
        _add_flag(parser, f)
    given = vars(parser.parse_args(argv))
    path = given.pop("config")
    try:
        values = load_config(path) if path else {}
        for name in _FREE_FORM:
            if name in given:
                given[name] = {**values.get(name, {}), **dict(_key_value(name, item) for item in given[name])}
        config = TrainConfig(**{**values, **given})
        config.check()
    except (ConfigError, TypeError) as error:
        parser.error(str(error))
    return config


def _add_flag(parser: argparse.ArgumentParser, f: dataclasses.Field[Any]) -> None:
    """Add the flag of one field; absent flags leave no trace, so that the config file shows through."""
    names = [n for n in (f.metadata.get("short"), f.metadata.get("flag", _flag(f.name))) if n]
    default = "" if isinstance(f.default, (dataclasses._MISSING_TYPE, type(None))) else f" (default: {f.default})"
    options: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS, "help": f.metadata["help"] + default}
    kind = str(f.type)
    if kind == "bool":
        options["action"] = argparse.BooleanOptionalAction
    elif f.name in _FREE_FORM:
        options |= {"action": "append", "metavar": "KEY=VALUE"}
    elif kind.startswith("list"):
        options |= {"type": int, "nargs": "+", "metavar": "N"}
    else:
        options |= {"type": {"int": int, "float": float}.get(kind.split(" ")[0], str), "metavar": f.name.upper()}
    parser.add_argument(*names, **options)


def _key_value(name: str, item: str) -> tuple[str, Any]:
    """Split KEY=VALUE; the value is JSON where it can be read as JSON, else the text itself."""
    key, equals, value = item.partition("=")
    if not equals or not key:
        flag = next(f.metadata["flag"] for f in dataclasses.fields(TrainConfig) if f.name == name)
        raise ConfigError(f"{flag} must be KEY=VALUE, got {item!r}")
    try:
        return key.replace("-", "_"), json.loads(value)
    except json.JSONDecodeError:
        return key.replace("-", "_"), value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _near(word: str, known: Any) -> str:
    close = difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
