"""Tests that a training step as a CUDA graph is bit-equal to the eager step; on a CPU the step is unchanged."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssd.common.errors import ConfigError
from ssd.config import TrainConfig
from ssd.data import Batch, PackedImages
from ssd.data.loading.packed_images import Canvas
from ssd.engine.optim import build_optimizer
from ssd.engine.step import State, amp_dtype, describe_step, make_state, train_step
from ssd.engine.step_graph import BatchBuffers
from ssd.models import SSD, build_model
from tests.ops.cuda.test_streams import no_synchronization

CONFIG = TrainConfig(warmup_iters=5, epochs=2)
SGD = {"opt": "sgd", "ema_decay": 0.0, "clip_grad_norm": 0.0}


def tiny(**rules: Any) -> SSD:
    torch.manual_seed(0)
    return build_model("ssd_tiny", 4, image_size=64, width=8, levels=3, **rules)


def batch_of(seed: int, counts: tuple[int, ...] = (3, 0, 5), deferred: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    corner = torch.rand(total, 2, generator=generator) * 0.6
    boxes = torch.cat((corner, corner + 0.05 + torch.rand(total, 2, generator=generator) * 0.35), dim=1)
    images: Any = torch.randint(0, 256, (len(counts), 3, 64, 64), dtype=torch.uint8, generator=generator)
    if deferred:
        sizes = torch.randint(60, 70, (len(counts), 2), generator=generator)
        ends = (3 * sizes.prod(dim=1)).cumsum(0)
        images = PackedImages(
            pixels=torch.randint(0, 256, (int(ends[-1]),), dtype=torch.uint8, generator=generator),
            offsets=torch.cat((ends.new_zeros(1), ends[:-1])),
            sizes=sizes,
            crops=torch.cat((torch.zeros(len(counts), 2), sizes.flip(1).float()), dim=1),
            flip=torch.rand(len(counts), generator=generator) < 0.5,
            color_matrices=torch.eye(3, 4).repeat(len(counts), 1, 1),
            hue=torch.zeros(len(counts)),
            canvas=Canvas(64, True, (0, 0, 0)),
        )
    return Batch(
        images=images,
        gt_boxes=boxes,
        gt_labels=torch.randint(1, 4, (total,), generator=generator),
        ignore=torch.rand(total, generator=generator) < 0.2,
        offsets=torch.tensor([0, *counts]).cumsum(0),
        image_ids=list(range(len(counts))),
        sizes=torch.full((len(counts), 2), 64),
    )


def test_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch's compiler, which would take longer than all tests of the step: what it gets and what is used."""
    calls = []

    def compiled(network: Any, **options: Any) -> Any:
        def run(images: Tensor) -> Any:
            calls.append(options)
            return network(images)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    losses = []
    for compile in (False, True):
        config = replace(CONFIG, compile=compile)
        state = make_state(config, tiny().train(), 4)
        assert ("compiled by torch.compile" in describe_step(config, state)) == compile
        losses.append(train_step(config, state, batch_of(0)))
    assert calls == [{"dynamic": False}] and losses[0] == losses[1]


def test_cpu_step_equals_plain_torch() -> None:
    config = replace(CONFIG, clip_grad_norm=1.0, ema_decay=0.9, norm_weight_decay=None, bias_weight_decay=None)
    state, model, mean = make_state(config, tiny().train(), 4), tiny().train(), tiny().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.999), weight_decay=0.02, fused=True)
    for step in range(3):
        batch = batch_of(step)
        train_step(config, state, batch)
        for group, other in zip(optimizer.param_groups, state.optimizer.param_groups, strict=True):
            group["lr"] = state.schedule.base_lrs[0] * state.schedule.lr_lambdas[0](step)
            assert isinstance(other["lr"], float)
        loc, logits = model.forward_raw(model.normalize(batch.images))
        losses = model.criterion(loc, logits, model.priors, *truths(batch))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(0.9, (2 + step) / (11 + step))
        for old, new in zip(mean.state_dict().values(), model.state_dict().values(), strict=True):
            old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)
    assert_same(state.model.state_dict(), model.state_dict())
    assert state.ema is not None
    assert_same(state.ema.module.state_dict(), mean.state_dict())


def truths(batch: Batch) -> tuple[Tensor, ...]:
    return batch.gt_boxes, batch.gt_labels, batch.offsets, batch.ignore


@pytest.mark.parametrize("deferred", [False, True])
def test_static_buffers_hold_batch_and_report_overflow(deferred: bool) -> None:
    buffers = BatchBuffers(batch_of(0, deferred=deferred))
    other = batch_of(1, (20, 1, 30), deferred)
    small, large = batch_of(2, (0, 0, 0), deferred), batch_of(3, (40, 1, 30), deferred)
    for batch in (other, small):
        assert buffers.fits(batch)
        buffers.load(batch)
        count = len(batch.gt_labels)
        assert torch.equal(buffers.batch.gt_boxes[:count], batch.gt_boxes)
        assert torch.equal(buffers.batch.offsets, batch.offsets)
    assert not buffers.fits(large)


def test_cuda_graph_without_gpu_raises() -> None:
    with pytest.raises(ConfigError, match="--cuda-graph on is not possible: the device is cpu"):
        make_state(replace(CONFIG, cuda_graph="on"), tiny(), 4)
    assert make_state(CONFIG, tiny(), 4).graphed is None


def test_resumed_momentum_has_memory_format_of_weights() -> None:
    model = tiny()
    state = make_state(replace(CONFIG, **SGD), model.train(), 4)
    train_step(replace(CONFIG, **SGD), state, batch_of(0))
    other = build_optimizer(replace(CONFIG, **SGD), copy.deepcopy(model).to(memory_format=torch.channels_last))
    other.param_groups[0]["foreach"] = True
    other.load_state_dict(state.optimizer.state_dict())
    assert other.param_groups[0]["foreach"] is True
    for weight, values in other.state.items():
        assert values["momentum_buffer"].stride() == weight.stride()


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield torch.device("cuda")
    torch.backends.cudnn.deterministic = before


def start(gpu: torch.device, way: str, **options: Any) -> tuple[TrainConfig, State]:
    model = tiny(**options.pop("rules", {})).to(gpu).train()
    config = replace(CONFIG, cuda_graph=way, device="cuda", **options)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return config, make_state(config, model, 6)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def assert_equal_steps(gpu: torch.device, batches: list[Batch], **options: Any) -> State:
    eager, graphed = start(gpu, "off", **options), start(gpu, "on", **options)
    for batch in batches:
        expected, found = (train_step(*run, batch.to(gpu)) for run in (eager, graphed))
        assert_same(found, expected)
    assert_same(graphed[1].model.state_dict(), eager[1].model.state_dict())
    if eager[1].ema is not None and graphed[1].ema is not None:
        assert_same(graphed[1].ema.module.state_dict(), eager[1].ema.module.state_dict())
    assert graphed[1].graphed is not None and len(graphed[1].graphed._graphs) > 0
    return graphed[1]


@pytest.mark.cuda
@pytest.mark.parametrize(
    "options",
    [
        SGD,
        {"opt": "adamw", "clip_grad_norm": 1.0, "ema_decay": 0.9},
        {"opt": "sgd_nesterov", "channels_last": True, "amp": True},
        {"deferred": True},
        {"ignore_unlabeled": 0.05, "ema_decay": 0.9},
        {"rules": {"box_loss": "giou", "class_target": "iou"}, "amp": True},
    ],
    ids=lambda options: " ".join(options),
)
def test_graph_replays_equal_eager_steps(gpu: torch.device, options: dict[str, Any]) -> None:
    options = dict(options)
    deferred = options.pop("deferred", False)
    batches = [batch_of(step, (step, 0, 5), deferred) for step in range(8)]
    batches += [batch_of(8, (60, 70, 5), deferred), batch_of(9, (2, 1), deferred), batch_of(10, (0, 0, 0), deferred)]
    assert_equal_steps(gpu, batches, **options)


@pytest.mark.cuda
def test_graph_includes_loss_scaling(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd.engine.step.amp_dtype", lambda device: torch.float16)
    state = assert_equal_steps(gpu, [batch_of(step) for step in range(8)], amp=True, clip_grad_norm=1.0)
    assert state.scaler.is_enabled()


@pytest.mark.cuda
@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_resumed_graph_training_equals_uninterrupted(gpu: torch.device, opt: str) -> None:
    batches = [batch_of(step).to(gpu) for step in range(12)]
    config, whole = start(gpu, "on", opt=opt)
    for batch in batches:
        train_step(config, whole, batch)
    config, first = start(gpu, "on", opt=opt)
    for batch in batches[:6]:
        train_step(config, first, batch)
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in first.parts().items()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True, map_location=gpu)
    assert all(isinstance(group["lr"], float) for group in saved["optimizer"]["param_groups"])
    for state in (start(gpu, "on", opt=opt)[1], first):  # a new process, and one that has captured already
        for batch in batches[6:8] if state is first else []:
            train_step(config, state, batch)
        for name, part in state.parts().items():
            part.load_state_dict(copy.deepcopy(saved[name]))
        for batch in batches[6:]:
            train_step(config, state, batch)
        assert_same(state.model.state_dict(), whole.model.state_dict())


@pytest.mark.cuda
def test_graph_follows_weights_frozen_later(gpu: torch.device) -> None:
    runs = [start(gpu, way, **SGD) for way in ("off", "on")]
    for step in range(10):
        for config, state in runs:
            if step == 6:
                state.model.backbone.stem.requires_grad_(False)
            train_step(config, state, batch_of(step).to(gpu))
    assert_same(runs[1][1].model.state_dict(), runs[0][1].model.state_dict())


@pytest.mark.cuda
def test_graph_replay_does_not_synchronize(gpu: torch.device) -> None:
    if amp_dtype(gpu) == torch.float16:
        pytest.skip("this GPU lacks bfloat16")
    config, state = start(gpu, "on", amp=True)
    batch = batch_of(0)
    for _ in range(5):
        train_step(config, state, batch.to(gpu))
    batch = batch.pin_memory()
    with no_synchronization():
        for _ in range(3):
            train_step(config, state, batch.to(gpu, non_blocking=True))


@pytest.mark.cuda
def test_step_that_cannot_be_captured_stays_eager(gpu: torch.device, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [start(gpu, way) for way in ("off", "auto")]
    for _, state in runs:
        state.model.backbone.register_forward_pre_hook(lambda _, inputs: inputs[0].sum().item() and None)
    for step in range(6):
        for config, state in runs:
            train_step(config, state, batch_of(step).to(gpu))
    assert "eager from now on, because it cannot be captured" in capsys.readouterr().out
    assert_same(runs[1][1].model.state_dict(), runs[0][1].model.state_dict())
