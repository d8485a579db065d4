"""Tests models on meta, with another default device or dtype, with NumPy numbers, and with a batch of one."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from ssd import MODELS, build_model

SMALL = {"image_size": 64, "width": 4}
TARGET = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_built_on_meta(name):
    with torch.device("meta"):
        model = build_model(name, 4)
    assert {v.device.type for v in (*model.parameters(), *model.buffers())} == {"meta"}


def test_model_built_on_meta_equals_when_materialized():
    expected = build_model("ssd_tiny", 4, **SMALL)
    with torch.device("meta"):
        model = build_model("ssd_tiny", 4, **SMALL)
    model.to_empty(device="cpu").load_state_dict(expected.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), expected.buffers(), strict=True))


def test_models_run_on_fake_tensors():
    with FakeTensorMode():
        model = build_model("ssd_tiny", 4, **SMALL).eval()
        found = model.detect(*model.forward_raw(model.normalize(torch.rand(2, 3, 64, 64))))
        assert found.boxes.shape == (2, 200, 4)
        model.train()
        boxes, labels = torch.rand(1, 4), torch.ones(1, dtype=torch.int64)
        outputs = model.forward_raw(model.normalize(torch.rand(2, 3, 64, 64)))
        losses = model.criterion(*outputs, model.priors, boxes, labels, torch.tensor([0, 1, 1]))
        (losses["loc"] + losses["cls"]).backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_under_another_default_dtype(dtype):
    expected = build_model("ssd_tiny", 4, **SMALL)
    torch.set_default_dtype(dtype)
    try:
        model = build_model("ssd_tiny", 4, **SMALL)
        losses = model([torch.rand(3, 50, 70, dtype=torch.float32)] * 2, [TARGET] * 2)
        assert model.eval()([torch.rand(3, 50, 70, dtype=torch.float32)])[0]["boxes"].shape[1] == 4
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in expected.named_buffers():
        if name in ("priors", "mean", "std"):
            assert torch.equal(model.get_buffer(name), value) and value.dtype == torch.float32
    assert all(p.dtype == dtype for p in model.parameters()) and all(v.isfinite() for v in losses.values())


def test_build_model_takes_numpy_numbers():
    model = build_model("ssd_tiny", np.int64(4), image_size=np.int32(64), width=4)
    assert model.build_args["num_classes"] == 4 and type(model.build_args["num_classes"]) is int
    for value in (4.0, "4", True, None):
        with pytest.raises(ValueError, match=f"num_classes must be an integer, got {value!r}"):
            build_model("ssd_tiny", value)
    with pytest.raises(ValueError, match=r"image_size must be an integer, got 64\.5"):
        build_model("ssd_tiny", 4, image_size=64.5)


@pytest.mark.parametrize("name", ["ssd_tiny", "ssdlite320_mobilenet_v2", "ssd300_resnet18"])
def test_batch_norm_error_for_batch_of_one(name):
    options = {"image_size": 64} if name == "ssd_tiny" else {}
    model = build_model(name, 3, **options)
    image = [torch.rand(3, 64, 64)]
    with pytest.raises(
        ValueError, match=r"batches of at least 2 \(--batch-size 2 or more, with --accumulate N at least"
    ):
        model(image, [TARGET])
    assert len(model.eval()(image)) == 1


def test_model_under_activation_checkpointing():
    """torch.utils.checkpoint, which recomputes the forward pass in the backward pass, keeps the gradients."""
    model = build_model("ssd_tiny", 3, **SMALL)
    images, targets = [torch.rand(3, 64, 64)] * 2, [TARGET] * 2
    grads = []
    for run in (model, lambda *args: checkpoint(model, *args, use_reentrant=False)):
        model.zero_grad()
        sum(run(images, targets).values()).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
