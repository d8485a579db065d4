"""Tests parts of a batch, early stopping, and the saved batch of a non-finite loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ssd.engine.loop as training
from ssd.common.errors import ConfigError
from ssd.config import TrainConfig, check_settings
from ssd.config.other_names import advice_for
from ssd.data import DataError
from ssd.engine.checkpoint import read
from ssd.engine.error_messages import TrainingError
from ssd.engine.loop import run
from ssd.engine.replay import read_saved, replay
from ssd.engine.step import backward, make_state
from ssd.models import SSD, build_model
from ssd.models.frozen import freeze_batch_norm
from ssd.programs.replay import main
from tests.ssd.test_step_graph import batch_of
from tests.ssd.test_training import SMALL

TINY = replace(SMALL, dataset_options={"size": 16, "image_size": 64}, pictures=0)


@pytest.mark.parametrize("normalizer", ["batch", "image", "batch_size"])
def test_accumulated_gradient_equals_whole_batch(normalizer: str) -> None:
    gradients, losses = [], []
    for parts in (1, 2, 3):
        torch.manual_seed(0)
        rules = {"normalizer": normalizer, "class_target": "iou"}
        model = build_model("ssd_tiny", 4, image_size=64, width=4, levels=2, **rules).train()
        freeze_batch_norm(model)
        config = TrainConfig(accumulate=parts, batch_size=3)
        losses.append(backward(config, make_state(config, model, 4), batch_of(1, (5, 0, 2))))
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0])
        torch.testing.assert_close(gradient, gradients[0])
    with pytest.raises(ConfigError, match="--accumulate must be at most --batch-size 3, got 4"):
        check_settings(replace(config, accumulate=4))


def test_patience_stops_after_evaluations_without_a_better_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.2, 0.5, 0.5, 0.4, 0.9])
    in_full: list[bool] = []  # whether the class table and the confusion matrix belong to the evaluation

    def evaluate(*args: Any) -> float:
        in_full.append(args[3].is_last)
        return next(values)

    monkeypatch.setattr(training, "evaluate_model", evaluate)
    run(replace(TINY, epochs=5, patience=2, output_dir=str(tmp_path)))
    assert read(tmp_path)["epoch"] == 4 and in_full == [False, False, False, True]
    assert "--epochs N --patience 0 " in (tmp_path / "summary.html").read_text()
    log = (tmp_path / "log.txt").read_text()
    assert "stopped after epoch 4: the last 2 evaluations were no better than 0.500 (--patience)" in log
    assert "epoch 2/5: loc loss" in log and ", AP50 0.500\n" in log
    run(replace(TINY, epochs=5, patience=2, resume=str(tmp_path)))  # stays stopped
    assert read(tmp_path)["epoch"] == 4


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diverged")
    config = replace(TINY, lr=1e30, clip_grad_norm=0.0, warmup_iters=0, print_freq=100, output_dir=str(folder))
    with pytest.raises(
        TrainingError, match=r"not finite at step 2 \(image ids .* `python -m ssd replay .*non_finite.pt`"
    ):
        run(config)
    return folder


def test_non_finite_batch_is_replayed(diverged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = read_saved(diverged)
    assert (saved["step"], saved["epoch"], len(saved["files"])) == (2, 1, 8)
    with pytest.raises(SystemExit) as ended:
        main([str(diverged), "--device", "cpu"])
    out = capsys.readouterr().out
    assert ended.value.code == 1
    assert f"batch of step 2, epoch 1, process 0; weights of {diverged / 'non_finite.pt'}" in out
    assert "outputs that are not finite" in out and out.count("  image ") == 8


def test_replay_with_finite_weights_is_finite(diverged: Path) -> None:
    report, is_finite = replay({**read_saved(diverged), "model": None}, torch.device("cpu"))
    assert is_finite and "weights of a new model: none were saved" in report


def test_replay_applies_precision_and_parts_of_training(diverged: Path) -> None:
    saved = read_saved(diverged)
    model = build_model(**saved["build_args"]).state_dict()
    model = {name: torch.full_like(value, 1e5) if "weight" in name else value for name, value in model.items()}
    settings = {**saved["settings"], "accumulate": 4, "ignore_unlabeled": 0.5}
    content = {**saved, "model": model, "settings": settings, "amp_dtype": "float16"}
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        forward = SSD.forward_raw
        patch.setattr(SSD, "forward_raw", lambda *args: (seen.append(len(args[1])), forward(*args))[1])
        report, is_finite = replay(content, torch.device("cpu"))
    assert seen == [2, 2, 2, 2] and not is_finite
    assert "on cpu in mixed precision (float16), in 4 parts (--accumulate)" in report
    assert "not replayed: --ignore-unlabeled; a value that is finite here" in report


def test_replay_needs_a_saved_batch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*non_finite.pt.*writes non_finite.pt into its run folder"):
        read_saved(tmp_path)
    torch.save({"model": {}}, tmp_path / "non_finite.pt")
    with pytest.raises(DataError, match="is not a batch that training saved"):
        read_saved(tmp_path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("--gradient_accumulation_steps", "use --accumulate"),
        ("freeze_backbone", "use --trainable-backbone-layers"),
        ("--mosaic", "use --augmentation-option mosaic=P"),
        ("--fsdp", "nothing is sharded; use torchrun"),
    ],
)
def test_flags_of_other_programs_are_explained(name: str, advice: str) -> None:
    said: Any = advice_for(name)
    assert advice in said
