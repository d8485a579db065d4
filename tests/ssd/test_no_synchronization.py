"""Tests that the host does not synchronize with the device, in a training step or in inference up to padded detections.

Without a GPU, tensors on `meta` take its place: they have no values, so that reading a value fails. `Watch` raises on
operations that synchronize on a GPU but run on meta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssd.config import TrainConfig
from ssd.data import Batch
from ssd.engine.layer_groups import LayerGroups
from ssd.engine.meter import LossMeter
from ssd.engine.step import amp_dtype, make_state, train_step
from ssd.models import SSD, build_model
from tests.ops.cuda.test_streams import no_synchronization as gpu_no_synchronization

aten = torch.ops.aten
MASKS = (torch.bool, torch.uint8)


class Watch(TorchDispatchMode):
    """Raises on blocking copies from host memory, and on writes through masks, whose count the host needs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        copied = {aten._to_copy.default: args[:1], aten.copy_.default: args[1:2]}.get(func, ())
        if copied and result.is_meta and not copied[0].is_meta:
            assert kwargs.get("non_blocking") or args[2:] == (True,), f"{func} synchronizes: it is not non_blocking"
        if func in (aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default):
            masked = any(index is not None and index.dtype in MASKS for index in args[1])
            assert not masked or args[2].numel() == 1, f"{func} synchronizes: it has to count its mask"
        return result


class WatchNewTensors(TorchFunctionMode):
    """Raises on tensors created from Python numbers on the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, Tensor.new_tensor):
            assert not result.is_meta, (
                "torch.tensor(..., device=) synchronizes: make it on the CPU, copy it non_blocking"
            )
        return result


@contextmanager
def watch() -> Iterator[None]:
    """Raises on operations that synchronize on a GPU but run on meta."""
    with Watch(), WatchNewTensors():
        yield


def no_synchronization(device: torch.device) -> AbstractContextManager[Any]:
    """Raises on every synchronization of the host with the device."""
    return watch() if device.type == "meta" else gpu_no_synchronization()


@pytest.fixture(params=["meta", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if request.param == "meta":
        monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # which meta does not have
        monkeypatch.setattr("ssd.engine.step.LayerGroups", lambda model, dtype: LayerGroups(model))
    return torch.device(request.param)


@pytest.fixture
def model(device: torch.device) -> SSD:
    torch.manual_seed(0)
    return build_model("ssd_tiny", 4).to(device)


def batch_of(model: SSD) -> Batch:
    size = model.image_size
    return Batch(
        images=torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8),
        gt_boxes=torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.8], [0.0, 0.0, 0.2, 0.3]]),
        gt_labels=torch.tensor([1, 2, 3]),
        ignore=torch.tensor([False, True, False]),
        offsets=torch.tensor([0, 2, 3]),
        image_ids=[0, 1],
        sizes=torch.full((2, 2), size),
    ).to(model.priors.device)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opt": "adamw", "clip_grad_norm": 1.0, "ema_decay": 0.9},
        {"channels_last": True},
        {"amp": True},
        {"amp": True, "channels_last": True, "ema_decay": 0.9},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_training_step_does_not_synchronize(model: SSD, device: torch.device, options: dict[str, Any]) -> None:
    if options.get("amp") and amp_dtype(device) == torch.float16:
        pytest.skip("the loss scaling of float16 reads from the device whether gradients are finite")
    config = replace(TrainConfig(), **options)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    batch, state = batch_of(model), make_state(config, model, 10)
    train_step(config, state, batch)  # the first one loads and allocates
    meter = LossMeter(state.world, device, lambda position, rank: "")
    with no_synchronization(device):
        losses = train_step(config, state, batch)
        meter.add(losses, state.step, batch.image_ids, 0)
    assert state.step == 2 and losses["loc"].device.type == device.type


def test_iou_losses_do_not_synchronize(device: torch.device) -> None:
    model = build_model("ssd_tiny", 4, box_loss="giou", class_target="iou").to(device)
    batch = batch_of(model)
    outputs = model.forward_levels(model.normalize(batch.images))
    matches = model.criterion.match(model.priors, batch.gt_boxes, batch.gt_labels, batch.offsets)
    with no_synchronization(device):
        sum(model.criterion.losses(*outputs, matches, model.priors).values()).backward()


def test_detection_does_not_synchronize(model: SSD, device: torch.device) -> None:
    model.eval()
    images = batch_of(model).images
    with torch.no_grad(), no_synchronization(device):
        detections = model.detect(*model.forward_raw(model.normalize(images)))
    assert detections.boxes.shape == (2, 200, 4) and detections.counts.device.type == device.type


def test_list_convention_with_cpu_targets_does_not_synchronize(model: SSD, device: torch.device) -> None:
    images = [torch.rand(3, 90, 120, device=device), torch.rand(3, 60, 60, device=device)]
    targets: list[dict[str, Tensor]] = [
        {"boxes": torch.tensor([[10.0, 5, 60, 70], [0, 0, 9, 9]]), "labels": torch.tensor([1, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    model(images, targets)
    with no_synchronization(device):
        losses = model(images, targets)
        sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: torch.equal(x, x + 1),  # not x itself, whose values torch.equal need not read
        lambda x: x.repeat_interleave(torch.ones_like(x, dtype=torch.int64)),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x.new_tensor([1.0]),
        lambda x: x.__setitem__(x > 0, x),
    ],
)
def test_watch_detects_synchronization(wait: Callable[[Tensor], Any], device: torch.device) -> None:
    x = torch.rand(3, device=device)
    if device.type == "cuda" and "equal" in wait.__code__.co_names:
        pytest.skip("torch's debug mode does not detect torch.equal")
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)), no_synchronization(device):
        wait(x)
