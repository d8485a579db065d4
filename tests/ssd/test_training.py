"""Tests training runs: run folder, exact resuming, and errors that keep the results so far."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2.functional import resize

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.engine.distributed import World
from ssd.engine.error_messages import TrainingError
from ssd.engine.loop import run
from ssd.engine.optim import ModelEMA, build_schedule
from ssd.engine.preparation import prepare
from ssd.engine.run_folder import RunFolder
from ssd.models import build_model
from ssd.reports.csv_log import CsvLog

SMALL = TrainConfig(
    dataset_options={"size": 24, "image_size": 64},
    image_size=64,
    model_options={"width": 4, "levels": 2},
    data_augmentation="hflip",
    batch_size=8,
    workers=0,
    epochs=2,
    eval_every=1,
    warmup_iters=2,
    print_freq=1,
    pictures=2,
    ema_decay=0.9,
    device="cpu",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "whole"
    run(replace(SMALL, output_dir=str(path)))
    return path


def test_evaluation_resizes_like_training(tmp_path: Path) -> None:
    sizes = {"size": 8, "image_size": 96}
    config = replace(SMALL, dataset="shapes", dataset_options=sizes, output_dir=str(tmp_path / "run"))
    shown = {}
    for antialias in (True, False):
        changed = replace(config, augmentation_options={"antialias": antialias}, test_only=True)
        _, _, loader = prepare(changed, World(), RunFolder.open(changed))
        image, _ = loader.dataset[0]
        shown[antialias] = next(iter(loader)).images[0]
        assert torch.equal(shown[antialias], resize(image, [64, 64], antialias=antialias))
    assert not torch.equal(shown[True], shown[False])


def test_run_folder_is_complete(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    assert {
        "config.json",
        "train.csv",
        "eval.csv",
        "eval.json",
        "loss.png",
        "pr.png",
        "detections.png",
        "last.pt",
    } <= names
    assert json.loads((finished / "config.json").read_text())["batch_size"] == 8
    rows = CsvLog(finished / "train.csv").rows()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(row["loc_loss"] + row["cls_loss"]) for row in rows)
    assert [row["epoch"] for row in CsvLog(finished / "eval.csv").rows()] == [1, 2]
    assert all(0 <= row["AP50"] <= 1 for row in CsvLog(finished / "eval.csv").rows())
    assert not list(finished.glob("*.part"))


def test_checkpoint_rebuilds_its_model(finished: Path) -> None:
    checkpoint = torch.load(finished / "last.pt", weights_only=True)
    model = build_model(**checkpoint["build_args"])
    model.load_state_dict(checkpoint["model"])
    assert checkpoint["classes"] == ["disc", "square", "triangle", "star"]
    assert model.num_classes == 5


def test_deterministic_runs_are_bit_equal(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    config = replace(SMALL, output_dir=str(tmp_path), use_deterministic_algorithms=True, pictures=0, eval_every=2)
    try:
        run(config)
    finally:
        torch.use_deterministic_algorithms(False)
    one, two = (torch.load(p / "last.pt", weights_only=True) for p in (finished, tmp_path))
    for part in ("model", "average"):
        left, right = (c[part] if part == "model" else c[part]["module"] for c in (one, two))
        assert all(torch.equal(left[name], right[name]) for name in left), part
    losses = [[row["loc_loss"] for row in CsvLog(p / "train.csv").rows()] for p in (finished, tmp_path)]
    assert losses[0] == losses[1]


def test_training_with_amp_and_channels_last(tmp_path: Path) -> None:
    run(replace(SMALL, output_dir=str(tmp_path), amp=True, channels_last=True, epochs=1, opt="sgd", lr=0.01))
    rows = CsvLog(tmp_path / "train.csv").rows()
    assert len(rows) == 3 and all(math.isfinite(row["loc_loss"] + row["cls_loss"]) for row in rows)


def test_test_only_repeats_the_result(finished: Path, tmp_path: Path) -> None:
    run(replace(SMALL, output_dir=str(tmp_path), resume=str(finished), test_only=True))
    again, before = CsvLog(tmp_path / "eval.csv").rows()[-1], CsvLog(finished / "eval.csv").rows()[-1]
    assert again == before


def test_output_folder_with_another_run_raises(finished: Path) -> None:
    with pytest.raises(ConfigError, match="contains another run; resume it with --resume"):
        run(replace(SMALL, output_dir=str(finished)))


def test_resume_rejects_checkpoint_of_another_model(finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"--model-option .* cannot be changed by --resume"):
        run(replace(SMALL, resume=str(finished), model_options={"width": 8, "levels": 2}))


def test_non_finite_loss_stops_training_and_keeps_checkpoint(tmp_path: Path) -> None:
    config = replace(SMALL, output_dir=str(tmp_path), lr=1e30, clip_grad_norm=0.0, warmup_iters=0, epochs=4)
    with pytest.raises(TrainingError, match="Common causes: the learning rate is too high"):
        run(config)


def test_logged_learning_rate_is_that_of_weights(tmp_path: Path, capsys) -> None:
    run(replace(SMALL, output_dir=str(tmp_path), lr=0.001, bias_lr_factor=2.0, iterations=1))
    assert "learning rate 0.001 " in capsys.readouterr().out


def test_unknown_model_option_raises_config_error() -> None:
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        run(replace(SMALL, model_options={"widht": 4}))
    with pytest.raises(ConfigError, match="num_classes: the number of classes comes from the data set, got 91"):
        run(replace(SMALL, model_options={"num_classes": 91}))


def rates_of(config: TrainConfig, steps: int) -> list[float]:
    """Returns the learning rate of each step (one per epoch), relative to the base learning rate."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(config, optimizer, steps_per_epoch=1)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [("multisteplr", [1.0, 1.0, 0.1, 0.1]), ("cosineannealinglr", [1.0, 0.853553, 0.5, 0.146447])],
)
def test_learning_rate_schedules(scheduler: str, expected: list[float]) -> None:
    config = replace(SMALL, epochs=4, lr_steps=[2], warmup_iters=0, lr_scheduler=scheduler)
    assert rates_of(config, 4) == pytest.approx(expected, abs=1e-5)


def test_warmup_is_linear() -> None:
    config = replace(SMALL, epochs=100, warmup_iters=4, lr_scheduler="multisteplr", lr_steps=[99])
    assert rates_of(config, 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_model_ema_by_hand() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    mean = ModelEMA(model, 0.5)
    torch.nn.init.ones_(model.weight)
    mean.update(model)  # decay min(0.5, 2 / 11)
    assert mean.module.weight.item() == pytest.approx(1 - 2 / 11)
    mean.update(model)  # decay min(0.5, 3 / 12)
    assert mean.module.weight.item() == pytest.approx(1 - 2 / 11 * 0.25)
