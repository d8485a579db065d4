"""Tests that detector variants equal the plain detector on changing images and objects, as far as no GPU is needed."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import detector_variants as variants
from benchmarks.detector_pair import PEERS, similar_detections
from ssd.models import SSD, build_model
from tests.ssd.test_no_synchronization import Watch

pytestmark = pytest.mark.slow

VARIANTS = ["compile", "channels_last", "amp", "compile+channels_last+amp"]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> SSD:
    """A small detector with confident heads; torch.compile only traces it, since code generation would take a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.manual_seed(0)
    model = build_model("ssd_tiny", 4, image_size=64)
    for level in model.head.classification_head.module_list:
        nn.init.normal_(level.weight, std=0.3)
    return model


def images(seed: int) -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def targets(*counts: int) -> list[dict[str, Tensor]]:
    found = []
    for count in counts:
        corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(count)) * 30
        found.append({"boxes": torch.cat([corners, corners + 20], 1), "labels": torch.arange(count) % 3 + 1})
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_inference_equals_plain(model: SSD, variant: str) -> None:
    model.eval()
    plain, other = variants.inference(lambda: model), variants.inference(lambda: model, variant)
    for seed in (1, 2):
        similar_detections(other(images(seed)), plain(images(seed)))
    assert not model.training and next(model.parameters()).is_contiguous()


def test_parts_of_torchvision_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.manual_seed(0)
    peer = PEERS["ssdlite320_mobilenet_v3_large"](weights=None, weights_backbone=None, num_classes=4).eval()
    pixels = torch.rand(1, 3, 320, 320)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found, expected = (variants.inference(lambda: peer, variant)(pixels) for variant in ("compile", ""))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= before + 2
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value)
    assert [variants.is_for_torchvision(name) for name in ("compile", "amp", "graph+amp")] == [True, True, False]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_training_step_equals_plain(model: SSD, variant: str) -> None:
    plain, other = variants.training_step(lambda: model), variants.training_step(lambda: model, variant)
    seen = []
    for seed, counts in ((1, (3, 5)), (2, (7, 2)), (1, (3, 5))):  # 8, then 9 objects
        expected = plain(images(seed), targets(*counts))
        seen.append(other(images(seed), targets(*counts)))
        torch.testing.assert_close(seen[-1], expected, rtol=0.05 if "amp" in variant else 1e-4, atol=0)
    torch.testing.assert_close(seen[0], seen[2], rtol=1e-3, atol=0)
    assert not torch.equal(seen[0][0], seen[1][0])


def test_number_of_objects_does_not_recompile(model: SSD) -> None:
    step = variants.training_step(lambda: model, "compile")
    step(images(1), targets(3, 5))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    step(images(1), targets(7, 2))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before > 0


def test_channels_last_reaches_every_layer(model: SSD) -> None:
    own = variants._variant_copy(model.eval(), "channels_last")
    seen = []
    for module in own.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, i, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
            )
    with torch.no_grad():
        own(list(images(1)))
    assert len(seen) > 10 and all(seen)


class Recorder:
    """Mock of torch.cuda: a captured function runs once; it must not synchronize and must allocate new gradients."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model: SSD | None = None
        self.replays = 0
        for name in ("Stream", "current_stream", "CUDAGraph"):
            monkeypatch.setattr(torch.cuda, name, lambda: self)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "graph", self.recording)

    def wait_stream(self, stream: Any) -> None: ...

    def replay(self) -> None:
        self.replays += 1

    @contextmanager
    def recording(self, graph: Any) -> Iterator[None]:
        parameters = [] if self.model is None else list(self.model.parameters())
        before = [parameter.grad for parameter in parameters]
        with Watch():
            yield
        assert all(p.grad is not None and p.grad is not grad for p, grad in zip(parameters, before, strict=True))


def test_training_step_can_be_captured(model: SSD, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    model = model.to("meta")
    monkeypatch.setattr(variants, "_variant_copy", lambda given, variant: given)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # which meta does not have
    recorder.model = model
    step = variants.training_step(lambda: model, "graph")
    for calls, counts in enumerate(((3, 5), (7, 2), (15, 15)), 1):
        truths = [{name: value.to("meta") for name, value in target.items()} for target in targets(*counts)]
        loc, cls = step(images(1).to("meta"), truths)
        assert recorder.replays == calls and loc.shape == cls.shape == ()


def test_inference_can_be_captured(model: SSD, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, model = Recorder(monkeypatch), model.to("meta").eval()
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(variants, "as_lists", lambda padded, side: padded)  # this synchronizes
    call = variants.inference(lambda: model, "graph")
    assert call(images(1).to("meta")).boxes.shape == (2, 200, 4) and recorder.replays == 1


def test_variant_names() -> None:
    assert variants.variant("amp+compile") == "compile+amp"
    with pytest.raises(ArgumentTypeError, match="some joined by \\+; got 'fast'"):
        variants.variant("amp+fast")
