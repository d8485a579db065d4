"""Tests that commands for torchvision's references/detection/train.py run unchanged with ssd/train.py."""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, VGG16_Weights, mobilenet_v3_large
from torchvision.models.vgg import cfgs, make_layers

from ssd.config import TrainConfig
from ssd.engine.optim import build_optimizer, build_schedule
from ssd.programs.train_arguments import parse_args
from ssd.reports.csv_log import CsvLog
from tests.processes import free_port, run_processes
from tests.ssd.test_recipes import FASTEST, write_coco_split

ROOT = Path(__file__).resolve().parent.parent.parent
SSD300 = (
    "torchrun --nproc_per_node=8 ssd/train.py --dataset coco --model ssd300_vgg16 --epochs 120 --lr-steps 80 110 "
    "--aspect-ratio-group-factor 3 --lr 0.002 --batch-size 4 --weight-decay 0.0005 --data-augmentation ssd "
    "--weights-backbone VGG16_Weights.IMAGENET1K_FEATURES"
)
SSDLITE = (
    "torchrun --nproc_per_node=8 ssd/train.py --dataset coco --model ssdlite320_mobilenet_v3_large --epochs 660 "
    "--aspect-ratio-group-factor 3 --lr-scheduler cosineannealinglr --lr 0.15 --batch-size 24 "
    "--weight-decay 0.00004 --data-augmentation ssdlite --weights-backbone MobileNet_V3_Large_Weights.IMAGENET1K_V1"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with COCO in ./coco, and a cache of torch.hub with random weights under torchvision's file names."""
    home = tmp_path_factory.mktemp("home")
    for split in ("train", "val"):
        write_coco_split(home / "coco", split, {"train": 4, "val": 2}[split])
    cache = home / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    for weights, net in (
        (VGG16_Weights.IMAGENET1K_FEATURES, nn.ModuleDict({"features": make_layers(cfgs["D"])})),
        (MobileNet_V3_Large_Weights.IMAGENET1K_V1, mobilenet_v3_large()),
    ):
        torch.save(net.state_dict(), cache / weights.url.rsplit("/", 1)[-1])
    return home


def by_torchrun(words: list[str], home: Path, tmp_path: Path) -> tuple[str, str]:
    """Runs a command with torchrun; returns its output, and its errors if it fails."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--master_port={free_port()}"]
    environment = {**os.environ, "TORCH_HOME": str(home / "torch"), "OMP_NUM_THREADS": "1", "SSD_DATA_PATH": ""}
    done = subprocess.run(
        [*torchrun, *words[1:]], cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    return done.stdout, done.stderr if done.returncode else ""


def by_fork(words: list[str], home: Path, tmp_path: Path) -> tuple[str, str]:
    """Runs a command in forked processes instead of torchrun; returns the same."""
    size = int(words[1].partition("=")[2])
    ended = run_processes(tmp_path / "said", as_script, home, words[2:], size=size)
    return "".join(p.out for p in ended), "".join(p.err for p in ended if p.code)


def as_script(home: Path, words: list[str]) -> None:
    os.chdir(home)
    os.environ.update(TORCH_HOME=str(home / "torch"), SSD_DATA_PATH="")
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


# Fewer processes, one step, and no GPU are the only changes. BatchNorm over 1 x 1 cells needs two images.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "images", "size", "launch"),
    [(SSD300, 1, 1, by_torchrun), (SSDLITE, 2, 2, by_fork)],
    ids=["ssd300", "ssdlite320"],
)
def test_torchvision_command_runs(
    command: str, images: int, size: int, launch: Callable[..., tuple[str, str]], home: Path, tmp_path: Path
) -> None:
    words = shlex.split(command.replace("--nproc_per_node=8", f"--nproc_per_node={size}"))
    words[2] = str(ROOT / words[2])
    few = ["--iterations", "1", "-b", str(images), "-j", "0", "--device", "cpu", *FASTEST]
    output, errors = launch([*words, *few, "--output-dir", str(tmp_path / "run")], home, tmp_path)
    assert not errors, errors[-3000:]
    assert output.count("note: --aspect-ratio-group-factor has no effect") == 1
    assert size == 1 or f"{size} processes, {images} images per step each" in output
    assert [row["step"] for row in CsvLog(tmp_path / "run" / "train.csv").rows()] == [1]
    assert 0 <= CsvLog(tmp_path / "run" / "eval.csv").rows()[0]["AP50"] <= 1


@pytest.fixture
def parsed(home: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.chdir(home)
    monkeypatch.delenv("SSD_DATA_PATH", raising=False)
    return parse_args(shlex.split(SSD300)[3:])


def test_torchvision_defaults_equal_script(parsed: TrainConfig, home: Path) -> None:
    assert (parsed.opt, parsed.momentum, parsed.lr_scheduler, parsed.lr_gamma) == ("sgd", 0.9, "multisteplr", 0.1)
    assert (parsed.clip_grad_norm, parsed.ema_decay, parsed.eval_every, parsed.workers) == (0, 0, 1, 4)
    assert (parsed.norm_weight_decay, parsed.bias_weight_decay) == (None, None)
    bare = parse_args(["--dataset", "coco", "--defaults", "torchvision"])
    assert (bare.epochs, bare.batch_size, bare.lr, bare.weight_decay, bare.lr_steps) == (26, 2, 0.02, 1e-4, [16, 22])
    assert bare.data_path == "coco"


@pytest.mark.parametrize(
    ("command", "recipe"), [(SSD300, "torchvision_ssd300_coco"), (SSDLITE, "torchvision_ssdlite320_coco")]
)
def test_recipe_equals_torchvision_command(command: str, recipe: str, home: Path) -> None:
    data = ["--data-path", str(home / "coco")]
    one, two = parse_args([*shlex.split(command)[3:], *data]), parse_args(["--config", recipe, *data])
    assert two.dataset_options == {"labels": "ids", "empty": "drop"}  # as the script's reader of COCO
    assert replace(two, dataset_options={}) == one


def test_optimizer_equals_torchvision_script(parsed: TrainConfig) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    (group,) = build_optimizer(parsed, model).param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.002, 0.9, False, 0.0005)
    parsed.norm_weight_decay, parsed.opt = 0.0, "sgd_nesterov"
    groups = build_optimizer(parsed, model).param_groups
    assert {group["weight_decay"]: len(group["params"]) for group in groups} == {0.0005: 2, 0.0: 2}
    assert groups[0]["nesterov"] is True


@pytest.mark.parametrize("scheduler", ["multisteplr", "cosineannealinglr"])
def test_learning_rates_equal_torchvision_script(parsed: TrainConfig, scheduler: str) -> None:
    parsed.lr_scheduler, parsed.epochs, parsed.lr_steps, steps = scheduler, 6, [2, 4], 5
    rates, wanted = [], []
    ours = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.002)
    schedule = build_schedule(parsed, ours, steps)
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.002)
    lr = torch.optim.lr_scheduler
    after = lr.MultiStepLR(theirs, [2, 4], 0.1) if scheduler == "multisteplr" else lr.CosineAnnealingLR(theirs, 6)
    for epoch in range(6):
        warmup = lr.LinearLR(theirs, 1 / 1000, total_iters=min(1000, steps - 1)) if epoch == 0 else None
        for _ in range(steps):
            rates.append(ours.param_groups[0]["lr"])
            wanted.append(theirs.param_groups[0]["lr"])
            ours.step()
            theirs.step()
            schedule.step()
            if warmup is not None:
                warmup.step()
        after.step()
    assert rates == pytest.approx(wanted, rel=1e-9)


FLAGS = (
    "-b 3 -j 2 --device cpu --opt adamw --momentum 0.8 --wd 0.1 --norm-weight-decay 0 --lr-step-size 3 --lr-gamma 0.5 "
    "--print-freq 5 --output-dir out --resume coco --start_epoch 1 --trainable-backbone-layers 2 --sync-bn --test-only "
    "--use-deterministic-algorithms --world-size 4 --dist-url env:// --weights coco --amp --backend tensor --use-v2"
)


def test_all_torchvision_flags_are_accepted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = shlex.split(FLAGS.replace(" coco ", f" {home / 'coco'} "))  # anything that exists
    config = parse_args([*shlex.split(SSD300)[3:], *flags, "--data-path", str(home / "coco")])
    assert (config.batch_size, config.workers, config.opt, config.weight_decay) == (3, 2, "adamw", 0.1)
    assert (config.norm_weight_decay, config.start_epoch, config.trainable_backbone_layers) == (0.0, 1, 2)
    assert config.sync_bn and config.test_only and config.use_deterministic_algorithms and config.amp
    output = capsys.readouterr().out
    assert all(f"note: --{name} has no effect" in output for name in ("backend", "use-v2", "world-size"))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--use-copypaste"], "--use-copypaste needs instance masks"),
        (["--rpn-score-thresh", "0.1"], "which SSD does not have"),
        (["--pretrained"], "was replaced by --weights"),
        (["--lr-stepz", "3"], "unknown argument --lr-stepz (did you mean '--lr-steps'?)"),
        (["--dataset", "coco_kp"], "--dataset must be one of auto, shapes, voc, coco"),
    ],
)
def test_invalid_torchvision_flags_raise_with_reason(
    flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_args(flags)
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err


def test_coco_default_data_paths(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSD_DATA_PATH", str(home / "coco"))
    assert parse_args(["--dataset", "coco"]).data_path == str(home / "coco")
    monkeypatch.delenv("SSD_DATA_PATH")
    with pytest.raises(SystemExit):
        parse_args(["--dataset", "coco"])
    assert "none of coco, data/coco, /datasets01/COCO/022719 exists" in capsys.readouterr().err


def test_torchvision_weights_use_91_coco_labels(home: Path) -> None:
    flags = ["--dataset", "coco", "--data-path", str(home / "coco"), "--test-only"]
    config = parse_args([*flags, "--weights", "SSD300_VGG16_Weights.COCO_V1"])
    assert config.dataset_options == {"labels": "ids"}
    (home / "own.pth").touch()
    assert parse_args([*flags, "--weights", str(home / "own.pth")]).dataset_options == {}
