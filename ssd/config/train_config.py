"""The configuration of a training run: one typed dataclass, filled from flags, a recipe or the config.json of another run.

Standard library only, so that `--help` and mistakes are answered at once.
"""
# ruff: noqa: RUF009  # _option makes fields, which are safe defaults

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ssd.config.choices import AUGMENTATIONS, CHOICES, DATASETS, FILE_DATASETS, MODELS, OPTIMIZERS, PRESETS, SCHEDULES
from ssd.config.config_file import read_config_file
from ssd.config.renamed_options import renamed_settings
from ssd.config.setting_checks import check_number, check_paths, check_type, flag, meant, near
from ssd.errors import ConfigError

_DATA_FILES = (".yaml", ".yml", ".json", ".csv")


def _option(default: Any, help: str, **metadata: Any) -> Any:
    """A field; `torchvision` is its default with --defaults torchvision, where that is another than the demo's."""
    metadata["help"] = help
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class TrainConfig:
    """All settings of a run.

    The defaults are the demo: drawn shapes, a small model, a few minutes on a CPU. On any other data set
    `TrainConfig.of` leaves what is not given to `auto_settings`, which chooses it for the data and the machine; with
    `defaults="torchvision"` it takes the defaults of torchvision's references/detection/train.py ("torchvision" below).
    """

    # Names of the settings that were given; the others may be chosen for the data. None: nothing may.
    given: ClassVar[frozenset[str] | None] = None

    dataset: str = _option(
        "auto",
        f"data set: {', '.join(DATASETS)}, or module:function of your own; auto finds out the format of --data-path, and "
        "without one draws shapes",
        group="data",
    )
    data_path: str | None = _option(
        None, "folder of the data set, or its data.yaml, JSON or CSV file; default: $SSD_DATA_PATH, or a usual place"
    )
    train_split: str = _option("train", "split to train on")
    val_split: str = _option("val", "split to evaluate on")
    val_share: float = _option(
        0.2, "share of the training images kept for evaluation where the data has no split of its own for it"
    )
    dataset_options: dict[str, Any] = _option(
        {}, "KEY=VALUE option of the data set, repeatable; see --list-options", flag="--dataset-option"
    )
    data_augmentation: str = _option("auto", ", ".join(AUGMENTATIONS) + "; auto: that of the model, hflip for shapes")
    augmentation_options: dict[str, Any] = _option(
        {}, "KEY=VALUE option of the augmentation, repeatable; see --list-options", flag="--augmentation-option"
    )
    device_augmentation: bool = _option(
        False,
        "the device that trains crops, resizes and colors the images of a batch in one launch; --workers only decode "
        "them and draw how",
    )
    workers: int = _option(2, "processes that load images, for each training process", torchvision=4, short="-j")

    model: str = _option("ssd_tiny", "model: " + ", ".join(MODELS), torchvision="ssd300_vgg16", group="model")
    preset: str = _option("torchvision", "rules of a known SSD system: " + ", ".join(PRESETS))
    image_size: int | None = _option(None, "side of the input; default: the model's own")
    model_options: dict[str, Any] = _option(
        {}, "KEY=VALUE option of the model or preset, repeatable; see --list-options", flag="--model-option"
    )
    weights: str | None = _option(
        None, "weights of a whole detector: a file of any known system, or torchvision's name"
    )
    weights_backbone: str | None = _option(None, "backbone weights: a file or torchvision's name")
    trainable_backbone_layers: int | None = _option(
        None, "stages of the backbone that learn; default: the model's own", flag="--trainable-backbone-layers"
    )
    freeze: str = _option(
        "none", "what does not learn: features (what comes pretrained), backbone (all but heads), none"
    )
    fit_priors: bool = _option(False, "search prior sizes that fit the training objects")

    epochs: int = _option(20, "passes over the training images", torchvision=26, group="optimizer")
    iterations: int = _option(0, "steps in all, in place of --epochs; --lr-steps then count steps too; 0: by epochs")
    batch_size: int = _option(16, "images a step, for each process", torchvision=2, short="-b")
    opt: str = _option("adamw", "optimizer: " + ", ".join(OPTIMIZERS), torchvision="sgd")
    lr: float = _option(0.002, "learning rate after the warm-up", torchvision=0.02)
    lr_batch_size: int = _option(
        0, "images a step, of all processes, that --lr is meant for; it is scaled. 0: as given"
    )
    backbone_lr_factor: float = _option(1.0, "rate of the pretrained features, as a share of --lr")
    extra_lr_factor: float = _option(1.0, "rate of the backbone's extra levels, as a share of --lr")
    bias_lr_factor: float = _option(1.0, "rate of biases, as a share of that of their weights (Caffe: 2)")
    momentum: float = _option(0.9, "of SGD (beta 1 of AdamW)")
    weight_decay: float = _option(0.02, "of weights", torchvision=1e-4, short="--wd")
    norm_weight_decay: float | None = _option(0.0, "of normalization layers; none: as --weight-decay", torchvision=None)
    bias_weight_decay: float | None = _option(0.0, "of biases; none: as --weight-decay", torchvision=None)
    clip_grad_norm: float = _option(10.0, "largest norm of the gradient; 0: no limit", torchvision=0.0)
    ema_decay: float = _option(0.99, "decay of the running mean of weights; 0: none", torchvision=0.0)

    lr_scheduler: str = _option(
        "cosineannealinglr", "schedule: " + ", ".join(SCHEDULES), torchvision="multisteplr", group="schedule"
    )
    lr_steps: list[int] = _option([16, 22], "epochs at which multisteplr drops")
    lr_step_size: int = _option(8, "epochs between the drops of steplr")
    lr_gamma: float = _option(0.1, "factor of each drop")
    lr_power: float = _option(0.9, "exponent of polynomial")
    lr_update: str = _option(
        "step",
        "the rate changes at each step, or after each epoch, with a warm-up no longer than the first",
        torchvision="epoch",
    )
    warmup_iters: int = _option(100, "steps of linear warm-up", torchvision=1000)
    warmup_factor: float | None = _option(None, "share of --lr at the first step; none: 1 / (N + 1)", torchvision=0.001)

    eval_every: int = _option(
        5, "epochs between evaluations; the last epoch always has one", torchvision=1, group="evaluation"
    )
    eval_epochs: list[int] = _option([], "epochs after which to evaluate, in place of --eval-every")
    eval_metric: str = _option("auto", "voc, voc07 (11 points), coco, or auto: as the data set")
    test_only: bool = _option(False, "evaluate the checkpoint of --resume or --weights and stop")
    pictures: int = _option(8, "evaluation images that are drawn")

    defaults: str = _option(
        "auto",
        "where settings come from that are not given, on data of your own: auto (chosen for the data and the machine, "
        "and printed) or torchvision (of its training script; also where a flag is given that only that script has)",
        group="run",
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1, ...")
    amp: bool = _option(False, "mixed precision: float16 on a GPU that lacks bfloat16, else bfloat16")
    channels_last: bool = _option(False, "NHWC memory format")
    cuda_graph: str = _option("auto", "a training step is one CUDA graph: on, off, or auto (one process on a GPU)")
    sync_bn: bool = _option(False, "BatchNorm over all processes (GPUs)")
    use_deterministic_algorithms: bool = _option(False, "only algorithms that give the same bits each time")
    dist_url: str = _option("env://", "where the processes meet")
    print_freq: int = _option(20, "steps between rows of train.csv")
    seed: int = _option(0, "of weights, order and augmentation")
    output_dir: str | None = _option(None, "run folder; default: runs/MODEL-DATASET-N")
    resume: str | None = _option(
        None, "run folder or checkpoint to go on from, with the run's own settings and what is given beside it"
    )
    save_minutes: float = _option(10.0, "minutes between checkpoints within an epoch; 0: only after each epoch")
    start_epoch: int = _option(0, "epochs to count as done where there is nothing to resume", short="--start_epoch")

    @classmethod
    def of(cls, values: dict[str, Any]) -> TrainConfig:
        """Makes a configuration of some values; the others take the defaults of the data set."""
        drawn = {"shapes"} if values.get("data_path") else {"shapes", "auto"}
        if values.get("dataset", "auto") in drawn:
            return cls(**values)
        if values.get("defaults", "auto") == "torchvision":
            return cls(**{**torchvision_defaults(), **values})
        config = cls(**values)
        config.given = frozenset(values)  # type: ignore[misc]  # of this one configuration
        return config

    def check(self) -> None:
        """Raise ConfigError for a setting that cannot be meant."""
        for f in dataclasses.fields(self):
            check_type(flag(f.name), str(f.type), getattr(self, f.name))
            check_number(f.name, getattr(self, f.name))
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known and not (name == "dataset" and ":" in value):
                raise ConfigError(f"{flag(name)} must be one of {', '.join(known)}, got {value!r}{near(value, known)}")
        if self.dataset in FILE_DATASETS and self.data_path is None:
            raise ConfigError(f"--data-path must name the folder of the data set {self.dataset!r}, got none")
        check_folder(self.data_path)
        for name in ("weights", "weights_backbone", "resume"):
            source = getattr(self, name)
            if self.resume and name != "resume":
                continue  # in the checkpoint
            if source and "_Weights." not in source and not Path(source).exists():
                raise ConfigError(f"{flag(name)} {source}: there is no such file")
        if self.test_only and not (self.resume or self.weights):
            raise ConfigError("--test-only needs --resume, the run folder or checkpoint to evaluate, or --weights")

    @property
    def augmentation(self) -> str:
        """The augmentation meant; drawn shapes vary enough by themselves."""
        if self.data_augmentation != "auto":
            return self.data_augmentation
        if self.dataset == "shapes" or (self.dataset == "auto" and self.data_path is None):
            return "hflip"
        return "ssdlite" if self.model.startswith("ssdlite") else "ssd"

    def save(self, path: Path) -> None:
        """Write the configuration as JSON that `--config` reads."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")


def check_folder(data_path: str | None) -> None:
    """Raise ConfigError where the data set's folder is named but not there."""
    if data_path is None or Path(data_path).is_dir():
        return
    if not (Path(data_path).is_file() and Path(data_path).suffix.lower() in _DATA_FILES):
        raise ConfigError(
            f"--data-path must be a folder, or a file with the suffix {', '.join(_DATA_FILES)}, got {data_path!r}, which "
            "is none"
        )


def torchvision_defaults() -> dict[str, Any]:
    """Returns the defaults of torchvision's training script, where they differ from those of the demo."""
    return {f.name: f.metadata["torchvision"] for f in dataclasses.fields(TrainConfig) if "torchvision" in f.metadata}


def load_config(path: str | Path) -> dict[str, Any]:
    """Reads a recipe or a config.json; unknown keys and values of another type are refused, with a hint."""
    values = renamed_settings(read_config_file(Path(path)))
    kinds = {f.name: str(f.type) for f in dataclasses.fields(TrainConfig)}
    if values.pop("about", None) is not None or len(values) > len(kinds) // 2:
        # a recipe, or what another run saved: nothing is chosen beside what it names
        values.setdefault("defaults", "torchvision")
    for key, value in values.items():
        if key not in kinds:
            raise ConfigError(f"--config {path}: unknown key {str(key)[:60]!r}{meant(str(key), kinds)}")
        check_type(f"--config {path}: {key}", kinds[key], value)
    check_paths(values)
    return values


def flag_of(name: str) -> str:
    """Returns the flag of a field as the command line has it, such as --model-option for model_options."""
    field = next(f for f in dataclasses.fields(TrainConfig) if f.name == name)
    return str(field.metadata.get("flag", flag(name)))
