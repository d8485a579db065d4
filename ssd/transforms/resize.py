"""Bilinear resize of an image with the pixels of torchvision's, without the import of torchvision."""

import platform

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_image(image: Tensor, size: list[int], *, antialias: bool) -> Tensor:
    """Resizes an image.

    Args:
        image: uint8 or floating point `[C, H, W]`, on any device.
        size: Height and width of the result.
        antialias: Use a low-pass filter when shrinking, as PIL does.

    Returns:
        `[C, h, w]` of the same dtype and memory format; the image itself if it has this size. uint8 is rounded, on a CPU
        after each direction where torch has kernels for uint8.
    """
    if list(image.shape[1:]) == size:
        return image
    batch = image.reshape(1, *image.shape)
    if batch.is_contiguous(memory_format=torch.channels_last):
        # torch takes a batch of one for contiguous and would copy its result; with this stride it is unambiguous
        batch = batch.as_strided(batch.shape, (batch.numel(), *batch.stride()[1:]))
    native = batch.dtype in (torch.float32, torch.float64) or (batch.dtype == torch.uint8 and _resizes_bytes(batch))
    values = batch if native else batch.float()
    values = F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=antialias)
    if not native:
        values = (values.round_() if batch.dtype == torch.uint8 else values).to(batch.dtype)
    return values.reshape(len(image), *size)


def _resizes_bytes(image: Tensor) -> bool:
    """Returns whether torch has kernels for uint8 that are faster than those for float32."""
    if image.device.type != "cpu":
        return False
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")
