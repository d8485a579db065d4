"""Tests that layers, resize and JPEG decoder, which avoid the import of torchvision, equal torchvision's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.io import decode_jpeg
from torchvision.models import get_weight, mobilenet_v2, vgg16
from torchvision.ops import SqueezeExcitation as Theirs
from torchvision.transforms.functional import to_pil_image
from torchvision.transforms.v2.functional import resize_image as their_resize

from ssd.data.loading import images, jpeg_decoder
from ssd.data.loading.pil_images import from_pil, to_pil
from ssd.engine.auto_settings import _CACHED_WEIGHTS
from ssd.inference.drawing import save_grid
from ssd.models.heads import LITE_NORM, depthwise_layers, lite_extra
from ssd.models.layers import (
    InvertedResidual,
    SqueezeExcitation,
    mobilenet_v2_features,
    vgg16_features,
    with_second_column,
)
from ssd.models.same_padding import use_same_padding
from ssd.transforms import resize
from ssd.transforms.resize import resize_image
from tests.ssd.small_folders import save_image


def check_same_network(own: nn.Module, theirs: nn.Module, side: int) -> None:
    """Checks names and shapes of the weights in order, the scale of their random values, and results."""
    expected = theirs.state_dict()
    assert {name: value.shape for name, value in own.state_dict().items()} == {k: v.shape for k, v in expected.items()}
    assert list(own.state_dict()) == list(expected)
    for name, value in own.state_dict().items():
        if value.numel() > 1000:
            assert torch.isclose(value.std(), expected[name].std(), rtol=0.1, atol=1e-7), name
    own.load_state_dict(expected)
    x = torch.randn(2, 3, side, side)
    for training in (True, False):
        assert torch.equal(own.train(training)(x), theirs.train(training)(x))


@pytest.mark.parametrize(("width", "norm"), [(1.0, None), (0.35, LITE_NORM), (0.75, None), (1.4, None)])
def test_mobilenet_v2_equals_torchvisions(width: float, norm: Any) -> None:
    own = mobilenet_v2_features(width, norm or nn.BatchNorm2d)
    check_same_network(own, mobilenet_v2(weights=None, width_mult=width, norm_layer=norm).features, 64)


def test_networks_can_be_traced_symbolically() -> None:
    """As those of torchvision: torch.fx cannot follow an `if` on a shape."""
    x = torch.randn(1, 3, 64, 64)
    for network in (mobilenet_v2_features(0.35), nn.Sequential(lite_extra(3, 16), depthwise_layers(16, 8, stride=2))):
        assert torch.equal(torch.fx.symbolic_trace(network.eval())(x), network(x))


def test_vgg16_equals_torchvisions() -> None:
    with torch.device("meta"):
        full = vgg16(weights=None)
    theirs = full.features.to_empty(device="cpu")
    theirs.load_state_dict(vgg16_features().state_dict())
    check_same_network(vgg16_features(), theirs, 32)


def test_squeeze_excitation_equals_torchvisions() -> None:
    check_same_network(
        nn.Sequential(SqueezeExcitation(3, 8, scale_activation=nn.Hardsigmoid)),
        nn.Sequential(Theirs(3, 8, scale_activation=nn.Hardsigmoid)),
        5,
    )


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
def test_resize_equals_torchvisions(monkeypatch: pytest.MonkeyPatch, capability: str, antialias: bool) -> None:
    """Values and strides, of whole images and crops, in both memory formats, also on a CPU without AVX2."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(resize.platform, "machine", lambda: "x86_64")
    planes = torch.randint(0, 256, (3, 37, 53), dtype=torch.uint8)
    pixels = torch.randint(0, 256, (37, 53, 3), dtype=torch.uint8).permute(2, 0, 1)
    inputs = [
        planes,
        pixels,
        pixels[:, 3:30, 4:50],
        planes[:, :, 7:],
        pixels.float() / 255,
        planes.double(),
        pixels.half(),
    ]
    inputs += [planes[:1].expand(3, -1, -1)]
    for image in inputs:
        for size in ([20, 30], [37, 53], [1, 2], [80, 60], [20, 60]):
            found, expected = (call(image, size, antialias=antialias) for call in (resize_image, their_resize))
            assert (
                torch.equal(found, expected) and found.stride() == expected.stride() and found.dtype == expected.dtype
            )


def test_decoder_needs_no_import_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(tmp_path / "a.jpg")
    file = torch.from_numpy(np.fromfile(tmp_path / "a.jpg", dtype=np.uint8))
    op = jpeg_decoder.load_decoder()
    assert op is not None and op.__name__ == "<lambda>" and torch.equal(op(file), decode_jpeg(file))
    with pytest.raises(RuntimeError):
        op(file[:20])
    monkeypatch.setattr(jpeg_decoder, "_LIBRARIES", ())  # another layout of torchvision
    public = jpeg_decoder.load_decoder()
    assert public is not None and public.__name__ == "decode" and torch.equal(public(file), decode_jpeg(file))
    monkeypatch.delattr(torchvision.io, "decode_jpeg")  # a release without it, or no torchvision
    assert jpeg_decoder.load_decoder() is None
    code = "raise RuntimeError('operator torchvision::nms does not exist')"  # as a torchvision of another torch
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(code)
    with monkeypatch.context() as other:
        other.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            other.delitem(sys.modules, name)
        assert jpeg_decoder.load_decoder() is None
    monkeypatch.setattr(images, "decode_jpeg", None)
    assert torch.equal(images.read_image(tmp_path / "a.jpg"), decode_jpeg(file))


def test_names_of_cached_files_are_torchvisions() -> None:
    assert {name: Path(get_weight(name).url).name for name in _CACHED_WEIGHTS} == _CACHED_WEIGHTS


def test_images_of_pil(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8)
    assert to_pil(image).tobytes() == to_pil_image(image).tobytes() and torch.equal(from_pil(to_pil(image)), image)
    gray = [torch.full((3, height, 10), value, dtype=torch.uint8) for height, value in ((10, 50), (20, 100), (10, 150))]
    save_grid(gray, tmp_path / "grid.png", columns=2, width=10)
    grid: Tensor = from_pil(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (3, 8 + 2 * (20 + 8), 8 + 2 * (10 + 8))
    assert (
        grid[0, 8:18, 8:18].eq(50).all() and grid[0, 18:28, 8:18].eq(255).all() and grid[0, 8:28, 26:36].eq(100).all()
    )
    assert grid[0, 36:46, 8:18].eq(150).all() and grid[0, 36:56, 26:36].eq(255).all() and grid[:, :8].eq(255).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [lite_extra, lambda i, o: depthwise_layers(i, o, stride=2)])
def test_extra_levels_of_one_cell_have_defined_gradients(build: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    extra = build(64, 64).to(dtype=dtype, memory_format=torch.channels_last)
    x = torch.randn(16, 64, 1, 1).to(dtype)
    (kernel,) = (weight for weight in extra.parameters() if weight.shape[1:] == (1, 3, 3))
    outside = torch.ones(3, 3, dtype=torch.bool)
    outside[1, 1] = False
    for _ in range(10):
        junk = [torch.full((64 * 9 * factor,), torch.nan) for factor in (1, 2) for _ in range(20)]
        del junk  # what is not written contains them
        (gradient,) = torch.autograd.grad(extra(x).float().square().sum(), kernel)
        assert not gradient[..., outside].any() and gradient.isfinite().all()
    wide = torch.cat([x, x], dim=-1)
    assert with_second_column(wide, nn.Conv2d(64, 64, 3, 2, 1, groups=64)) is wide


@pytest.mark.parametrize("same", [False, True], ids=["torch's padding", "SAME padding"])
@pytest.mark.parametrize("size", [(1, 1), (4, 1), (2, 2)])
def test_strided_layers_give_the_same_with_and_without_gradients(size: tuple[int, int], same: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 64, *size)
    blocks = (InvertedResidual(64, 64, 2, 2.0), lite_extra(64, 64), depthwise_layers(64, 64, stride=2))
    for block in map(nn.Module.eval, blocks):
        if same:
            use_same_padding(block)
        with torch.no_grad():
            expected = block(x)
        torch.testing.assert_close(block(x), expected)
