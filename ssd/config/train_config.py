"""The configuration of a training run: one typed dataclass, filled from flags, a recipe or a run's config.json.

Standard library only, so that `--help` and configuration errors need no import of torch.
"""
# ruff: noqa: RUF009  # option returns fields, which are safe defaults

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from ssd.config.choices import AUGMENTATIONS, DATASETS, MODELS, OPTIMIZERS, PRESETS, SCHEDULES
from ssd.config.fields import option
from ssd.config.setting_checks import flag


@dataclass
class TrainConfig:
    """All settings of a run.

    The defaults are those of the demo: generated shapes, a small model, a few minutes on a CPU. On any other data set
    `TrainConfig.of` leaves the settings that are not given to `auto_settings`, which chooses them for the data and the
    machine. With `defaults="torchvision"` it uses the defaults of torchvision's references/detection/train.py, which
    the fields below give as `torchvision=`.
    """

    # Names of the settings that were given; `auto_settings` may choose the others. None: it may choose nothing.
    given: ClassVar[frozenset[str] | None] = None
    first_lines: ClassVar[str] = ""  # what was printed while the configuration was made, for log.txt

    dataset: str = option(
        "auto",
        f"format of the data set: {', '.join(DATASETS)}, or module:function for your own code. auto detects the format of "
        "--data-path, or generates shapes if there is none",
        group="data",
        metavar="NAME",
    )
    data_path: str | None = option(
        None,
        "folder of the data set, or its data.yaml, JSON or CSV file (default: $SSD_DATA_PATH or a common location)",
        metavar="PATH",
    )
    train_split: str = option("train", "split to train on", metavar="NAME")
    val_split: str = option("val", "split to evaluate on", metavar="NAME")
    val_share: float = option(
        0.2, "fraction of the training images held out for evaluation if the data set has no split val"
    )
    dataset_options: dict[str, Any] = option(
        {}, "option of the data set; repeatable, see --list-options", flag="--dataset-option"
    )
    data_check: str = option(
        "fast",
        "check of images and boxes before the first step, which prints what is wrong: off, fast (images read within 2 "
        "seconds), or full (every image, as ssd data check)",
    )
    data_augmentation: str = option(
        "auto",
        f"augmentation policy: {', '.join(AUGMENTATIONS)}. auto uses that of the model, and hflip for shapes",
        metavar="NAME",
    )
    augmentation_options: dict[str, Any] = option(
        {}, "option of the augmentation; repeatable, see --list-options", flag="--augmentation-option"
    )
    device_augmentation: bool = option(
        False,
        "crop, resize and color-jitter each batch in one kernel on the training device; --workers then only decode "
        "images and sample the parameters",
    )
    device_jpeg: bool = option(False, "with --device-augmentation on a GPU, decode JPEG files there, too")
    workers: int = option(2, "data loading processes per training process", torchvision=4, short="-j")

    model: str = option(
        "ssd_tiny",
        f"model: {', '.join(MODELS)}, or timm:NAME",
        torchvision="ssd300_vgg16",
        group="model",
        metavar="NAME",
    )
    preset: str = option(
        "torchvision",
        f"SSD implementation whose matching, loss and post-processing rules to use: {', '.join(PRESETS)}",
        metavar="NAME",
    )
    image_size: int | None = option(None, "side of the square input in pixels (default: that of the model)")
    model_options: dict[str, Any] = option(
        {}, "option of the model or the preset; repeatable, see --list-options", flag="--model-option"
    )
    weights: str | None = option(
        None,
        "pretrained weights of a whole detector: a file of any supported system, or a name of torchvision's weights",
        metavar="WEIGHTS",
    )
    weights_backbone: str | None = option(
        None,
        "pretrained weights of the backbone: a file (also Caffe's VGG16, .caffemodel), or a name of torchvision's weights",
        metavar="WEIGHTS",
    )
    trainable_backbone_layers: int | None = option(
        None,
        "number of backbone stages to train, counted from the last (default: that of the model)",
    )
    freeze: str = option(
        "none",
        "layers to freeze: none, features (the pretrained part of the backbone), or backbone (everything but the heads)",
    )
    fit_priors: bool = option(False, "fit the prior box sizes to the training objects")

    epochs: int = option(20, "number of passes over the training images", torchvision=26, group="optimizer")
    iterations: int = option(
        0,
        "number of training steps, instead of --epochs; --lr-steps and --lr-step-size then count steps. 0: use --epochs",
    )
    batch_size: int = option(16, "images per step and process", torchvision=2, short="-b")
    accumulate: int = option(
        1, "parts in which each batch goes through the network, to save memory; gradients are those of the whole batch"
    )
    opt: str = option("adamw", f"optimizer: {', '.join(OPTIMIZERS)}", torchvision="sgd")
    lr: float = option(0.002, "learning rate after warmup", torchvision=0.02)
    lr_batch_size: int = option(
        0, "total batch size that --lr is given for; the rate scales linearly with the actual one. 0: no scaling"
    )
    backbone_lr_factor: float = option(1.0, "factor on --lr for the pretrained part of the backbone")
    extra_lr_factor: float = option(1.0, "factor on --lr for the extra layers of the backbone")
    bias_lr_factor: float = option(1.0, "factor on the learning rate for biases (Caffe uses 2)")
    momentum: float = option(0.9, "momentum of SGD, or beta1 of AdamW")
    weight_decay: float = option(0.02, "weight decay", torchvision=1e-4, short="--wd")
    norm_weight_decay: float | None = option(
        0.0, "weight decay of normalization layers; none: same as --weight-decay", torchvision=None
    )
    bias_weight_decay: float | None = option(
        0.0, "weight decay of biases; none: same as --weight-decay", torchvision=None
    )
    clip_grad_norm: float = option(10.0, "maximum gradient norm; 0: no clipping", torchvision=0.0)
    ema_decay: float = option(
        0.99, "decay of the exponential moving average (EMA) of the weights; 0: no EMA", torchvision=0.0
    )
    ignore_unlabeled: float = option(
        0.0,
        "score from which detections of the EMA that no annotation covers are ignored by the loss, instead of trained "
        "as background, after the first quarter of the steps; for data with missing annotations. 0: off",
    )
    label_unlabeled: float = option(
        0.0, "score from which such detections are trained as objects of their class, instead of ignored. 0: off"
    )

    lr_scheduler: str = option(
        "cosineannealinglr",
        f"learning rate schedule: {', '.join(SCHEDULES)}",
        torchvision="multisteplr",
        group="schedule",
        metavar="NAME",
    )
    lr_steps: list[int] = option([16, 22], "epochs at which multisteplr decays the rate (default: 16 22)")
    lr_step_size: int = option(8, "number of epochs between decays of steplr")
    lr_gamma: float = option(0.1, "decay factor of multisteplr and steplr")
    lr_power: float = option(0.9, "exponent of the polynomial schedule")
    lr_update: str = option(
        "step",
        "when the learning rate changes: step, or epoch (as torchvision; warmup then ends within the first epoch)",
        torchvision="epoch",
    )
    warmup_iters: int = option(100, "steps of linear warmup", torchvision=1000)
    warmup_factor: float | None = option(
        None, "factor on --lr at the first step of warmup; none: 1 / (warmup steps + 1)", torchvision=0.001
    )

    eval_every: int = option(
        5, "number of epochs between evaluations; the last epoch is always evaluated", torchvision=1, group="evaluation"
    )
    eval_epochs: list[int] = option([], "epochs to evaluate, instead of --eval-every")
    patience: int = option(
        0, "stop after this many evaluations in a row without a better result; best.pt is the best one. 0: never"
    )
    eval_metric: str = option(
        "auto", "metric: voc (area under the curve), voc07 (11 points), coco, or auto (coco for COCO data, else voc)"
    )
    test_only: bool = option(False, "evaluate the model of --resume or --weights, and exit")
    pictures: int = option(8, "number of evaluation images to draw detections on")

    defaults: str = option(
        "auto",
        "source of the settings that are not given, on your own data: auto (chosen for the data and the machine, and "
        "printed) or torchvision (its training script; implied by a flag that only that script has)",
        group="run",
    )
    device: str = option("auto", "device to train on: auto, cpu, cuda, cuda:1, ...")
    amp: bool = option(False, "mixed precision: bfloat16, or float16 on a GPU without bfloat16")
    channels_last: bool = option(False, "use the channels-last (NHWC) memory format")
    cuda_graph: str = option(
        "auto", "run the training step as one CUDA graph: on, off, or auto (if a single process trains on a GPU)"
    )
    compile: bool = option(False, "compile the network by torch.compile, which takes minutes at the first step")
    cudnn_benchmark: bool = option(
        False, "let cuDNN time its algorithms at the first steps; runs with one seed may then differ by rounding"
    )
    sync_bn: bool = option(False, "synchronize BatchNorm statistics across processes (GPUs only)")
    use_deterministic_algorithms: bool = option(False, "use deterministic algorithms only")
    dist_url: str = option("env://", "URL to set up distributed training", metavar="URL")
    print_freq: int = option(20, "number of steps between rows of train.csv")
    tensorboard: str = option(
        "auto", "log losses and metrics for TensorBoard in the run folder: on, off, or auto (if it is installed)"
    )
    quiet: bool = option(False, "print only warnings, errors and the run folder; log.txt has everything", short="-q")
    seed: int = option(0, "random seed of initialization, data order and augmentation")
    output_dir: str | None = option(None, "run folder (default: runs/MODEL-DATASET-N)", metavar="DIR")
    resume: str | None = option(
        None,
        "run folder or checkpoint to resume, with the settings of that run; other flags override them. In a folder of "
        "runs (default: runs), this is the one saved last",
        metavar="PATH",
        const="runs",
    )
    save_minutes: float = option(10.0, "minutes between checkpoints within an epoch; 0: save after each epoch only")
    start_epoch: int = option(
        0, "number of epochs to skip, as if they were done, when nothing is resumed", short="--start_epoch"
    )

    @classmethod
    def of(cls, values: dict[str, Any]) -> TrainConfig:
        """Returns a configuration with the given values; the others get the defaults for the data set."""
        generated = {"shapes"} if values.get("data_path") else {"shapes", "auto"}
        if values.get("dataset", "auto") in generated:
            return cls(**values)
        if values.get("defaults", "auto") == "torchvision":
            return cls(**{**torchvision_defaults(), **values})
        config = cls(**values)
        config.given = frozenset(values)  # type: ignore[misc]  # set on this instance only
        return config

    @property
    def augmentation(self) -> str:
        """Name of the augmentation policy, with `auto` resolved; generated shapes vary enough for hflip."""
        if self.data_augmentation != "auto":
            return self.data_augmentation
        if self.dataset == "shapes" or (self.dataset == "auto" and self.data_path is None):
            return "hflip"
        return "ssdlite" if self.model.startswith("ssdlite") else "ssd"


def torchvision_defaults() -> dict[str, Any]:
    """Returns the defaults of torchvision's training script that differ from those of the demo."""
    return {f.name: f.metadata["torchvision"] for f in dataclasses.fields(TrainConfig) if "torchvision" in f.metadata}


def flag_of(name: str) -> str:
    """Returns the flag of a field on the command line, such as `--model-option` for `model_options`."""
    field = next(f for f in dataclasses.fields(TrainConfig) if f.name == name)
    return str(field.metadata.get("flag", flag(name)))
