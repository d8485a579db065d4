"""Tests that the inference engine equals the detector, exactly or up to rounding, also after weights change."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssd.inference.engine import InferenceEngine
from ssd.models import SSD, build_model
from ssd.models.folded import ConvReLU, folded
from ssd.models.fused_heads import FusedHead, fuse_heads
from ssd.models.heads import SSDHead, lite_predictor, normal_init


def tiny(**options: Any) -> SSD:
    torch.manual_seed(0)
    model = build_model("ssd_tiny", 4, image_size=64, width=8, levels=3, score_threshold=0.3, **options)
    return unlike_the_start(model)


def unlike_the_start(model: SSD) -> SSD:
    """Sets BatchNorm statistics and scales as after training: the initial 0 and 1 would hide errors of folding."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.bias):
                nn.init.normal_(tensor, std=0.2)
            for tensor in (layer.running_var, layer.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


def photos(count: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (3, 50 + 9 * i, 90 - 7 * i), dtype=torch.uint8, generator=generator) for i in range(count)
    ]


def batch(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ssd_tiny", {}),
        ("ssdlite320_mobilenet_v2", {"fpn_width": 16, "min_stride": 8}),
        ("ssdlite320_mobilenet_v2", {"layout": "qfgaohao", "freeze_bn": True, "image_size": 300}),
        ("ssdlite320_mobilenet_v3_large", {}),
        ("ssd300_resnet18", {"freeze_bn": True}),
        ("ssd300_resnet50", {}),
    ],
)
def test_engine_folds_all_batch_norm_with_same_outputs(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = unlike_the_start(build_model(name, 3, **options))
    own = folded(model)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in own.modules())
    images = torch.randn(1, 3, model.image_size, model.image_size)
    with torch.no_grad():
        for found, expected in zip(own.forward_raw(images), model.forward_raw(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_fused_conv_relu_equals_bfloat16_outputs(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    model = tiny().to(device)
    own = folded(model, torch.bfloat16)
    assert sum(isinstance(layer, ConvReLU) for layer in own.modules()) == 8
    assert not any(isinstance(layer, nn.ReLU) for layer in own.modules())
    images = torch.randn(2, 3, 64, 64, device=device)
    with torch.no_grad():
        rounded = own.forward_raw(images.bfloat16().contiguous(memory_format=torch.channels_last))
        for found, expected in zip(rounded, model.forward_raw(images), strict=True):
            torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item())
    assert all(layer.fused for layer in own.modules() if isinstance(layer, ConvReLU))


def test_exact_engine_equals_model() -> None:
    model, images = tiny(), photos()
    with torch.no_grad():
        expected = model([image.float().div(255) for image in images])
    for found, wanted in zip(InferenceEngine(model, exact=True).predict(images), expected, strict=True):
        assert len(wanted["scores"]) > 0
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(found[name], wanted[name])
    with pytest.raises(ValueError, match="model must be in evaluation mode"):
        InferenceEngine(model.train(), exact=True)
    with pytest.raises(ValueError, match="exact=True cannot be combined with compile, dtype or fuse_heads"):
        InferenceEngine(model, exact=True, dtype=torch.float32)


def test_engine_equals_model_up_to_rounding() -> None:
    model = tiny()
    engine = InferenceEngine(model, dtype=torch.float32)
    for images, found in zip(
        [batch(2), batch(3, seed=1)], engine.detect_all([batch(2), batch(3, seed=1)]), strict=True
    ):
        with torch.no_grad():
            expected = model.detect(*model.forward_raw(model.normalize(images)))
        assert torch.equal(found.counts, expected.counts) and int(found.counts.min()) > 0
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)


def test_fused_heads_equal_two_convolutions_also_with_changed_weights() -> None:
    model, names = tiny(), list(tiny().state_dict())
    plain, fused = (InferenceEngine(model, dtype=torch.float32, fuse_heads=fuses) for fuses in (False, True))
    assert isinstance(fused._net.head, FusedHead) and list(model.state_dict()) == names
    for change in (0.0, 0.5):
        with torch.no_grad():
            for weight in model.head.parameters():
                weight.add_(change * torch.rand_like(weight))
        for found, expected in zip(fused.outputs(batch(3)), plain.outputs(batch(3)), strict=True):
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        for found, expected in zip(fused.detect(batch(3)), plain.detect(batch(3)), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_heads_of_several_layers_are_not_fused() -> None:
    model = tiny()
    model.head = head = SSDHead([8] * 3, [4] * 3, 4, lite_predictor, normal_init)
    fuse_heads(model)
    assert model.head is head


def test_engine_boxes_are_in_pixels_of_each_image() -> None:
    engine = InferenceEngine(tiny())
    images = [*photos(), torch.randint(0, 256, (3, 2, 40_000), dtype=torch.uint8)]  # wider than render_images takes
    for image, found in zip(images, engine.predict(images), strict=True):
        assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"]) > 0
        height, width = image.shape[1:]
        assert (found["boxes"] >= -1e-3).all()
        assert (found["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
    assert engine.predict([]) == []
    with pytest.raises(ValueError, match=r"images\[1\] must be uint8 \[3, H, W\], got torch.float32"):
        engine.predict([photos()[0], torch.rand(3, 4, 4)])
    with pytest.raises(TypeError, match=r"images\[0\] must be a tensor, uint8 \[3, H, W\], got ndarray"):
        engine.predict([photos(1)[0].numpy()])  # type: ignore[list-item]
    for images in (batch(2)[..., :32, :32], batch(1)[0]):
        for method in (engine.detect, engine.outputs):
            with pytest.raises(ValueError, match=r"images must have shape \[B, 3, 64, 64\], got \["):
                method(images)
    with pytest.raises(TypeError, match=r"model must be a model of ssd\.build_model, got Identity"):
        InferenceEngine(nn.Identity())  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["load_state_dict", "in place", "another tensor", "rules"])
def test_engine_follows_changed_weights(how: str) -> None:
    check_changes(how, torch.device("cpu"))


def check_changes(how: str, device: torch.device) -> None:
    model = tiny().to(device)
    engine = InferenceEngine(model, dtype=torch.float32)
    before = engine.detect(batch(2))
    if how == "load_state_dict":
        torch.manual_seed(5)
        model.load_state_dict(build_model("ssd_tiny", 4, image_size=64, width=8, levels=3).state_dict())
    elif how == "in place":
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.3)
    elif how == "another tensor":
        layer = model.get_submodule("head.classification_head.module_list.0")
        layer.bias = nn.Parameter(torch.randn_like(layer.bias))
    else:
        model.preset = tiny(max_detections=3).preset
    found, expected = engine.detect(batch(2)), InferenceEngine(model, dtype=torch.float32).detect(batch(2))
    assert all(torch.equal(mine, fresh) for mine, fresh in zip(found, expected, strict=True))
    assert found.scores.shape != before.scores.shape or not torch.equal(found.scores, before.scores)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # float32 as on a CPU
    return torch.device("cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_engine_graph_replays_equal_eager(gpu: torch.device, dtype: torch.dtype) -> None:
    engine = InferenceEngine(tiny().to(gpu), dtype=dtype)  # nothing else holds the model
    net = folded(engine.model, dtype)
    gc.collect()
    for step in range(4):
        for count in (1, 4, 8):  # sizes of graphs: a padded batch may choose other algorithms
            images = batch(count, seed=step)
            found = engine.detect(images)
            with torch.no_grad():
                x = net.normalize(images.to(gpu)).contiguous(memory_format=torch.channels_last)
                expected = net.detect(*net.forward_raw(x))
            assert int(found.counts.min()) > 0
            for mine, eager in zip(found, expected, strict=True):
                assert torch.equal(mine, eager.to(mine.dtype).cpu())


@pytest.mark.cuda
@pytest.mark.parametrize("channels, side, dilation", [(3, 60, 1), (64, 38, 1), (512, 19, 6)])
def test_fused_kernel_reads_no_uninitialized_memory(channels: int, side: int, dilation: int) -> None:
    """cuDNN's kernel also adds a tensor times 0, for which torch passes the uninitialized result."""
    generator = torch.Generator().manual_seed(0)
    layout = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
    x = torch.rand(4, channels, side, side, generator=generator).cuda().to(**layout)
    weight = torch.randn(64, channels, 3, 3, generator=generator).cuda().to(**layout)
    bias = torch.zeros(64, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        poison = torch.full((4, 64, side, side), torch.nan, device="cuda", dtype=torch.bfloat16)
        address = poison.data_ptr()
        del poison
        result = torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (dilation,) * 2, (dilation,) * 2, 1)
        assert result.data_ptr() == address, "the memory was not used again"
        assert bool(result.isfinite().all())


@pytest.mark.cuda
def test_engine_uses_few_graphs_for_any_batch_size(gpu: torch.device) -> None:
    engine = InferenceEngine(tiny().to(gpu), dtype=torch.float32)
    counts = [3, 70, 1, 32, 33, 5, 6, 7, 0]
    batches = [batch(count, seed=count) for count in counts]
    # of other batch sizes the last detection may pass the threshold or not: the best ones are compared
    for images, found in zip(batches, engine.detect_all(iter(batches)), strict=True):
        alone = [engine.detect(image[None]) for image in images]
        best = torch.cat([each.scores for each in alone] or [found.scores])[:, :20]
        torch.testing.assert_close(found.scores[:, :20], best, rtol=0, atol=1e-3)
    assert engine._graphs is not None and len(engine._graphs._graphs) <= 6


@pytest.mark.cuda
@pytest.mark.parametrize("how", ["load_state_dict", "in place", "another tensor", "rules"])
def test_engine_graphs_follow_changed_weights(how: str, gpu: torch.device) -> None:
    check_changes(how, gpu)


@pytest.mark.cuda
def test_engine_on_gpu_equals_cpu(gpu: torch.device) -> None:
    cpu, there = (InferenceEngine(tiny().to(device), dtype=torch.float32) for device in ("cpu", gpu))
    for found, expected in zip(there.predict(photos()), cpu.predict(photos()), strict=True):
        assert len(expected["scores"]) > 20
        torch.testing.assert_close(found["scores"][:20], expected["scores"][:20], rtol=0, atol=1e-3)
