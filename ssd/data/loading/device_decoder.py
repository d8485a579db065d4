"""Decodes the JPEG files of a batch on the training device.

torchvision decodes on a GPU by nvJPEG, whose inverse DCT and upsampling of chroma round differently from libjpeg's, so
pixels differ slightly from those of a CPU.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from ssd.data.faults import DataError
from ssd.data.loading.encoded_images import EncodedImage, EncodedImages, Undecoded
from ssd.data.loading.images import decode_image, decode_jpegs
from ssd.data.loading.packed_images import PackedImages, Unrendered

Decode = Callable[[list[Tensor], torch.device], list[Tensor]]


def why_not_decoded(device: torch.device) -> str | None:
    """Returns why a device cannot decode JPEG files, or None if it can."""
    if device.type != "cuda":
        return f"it decodes on a CUDA device, got {device}"
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "jpeg")
    try:
        decode_jpegs([torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)], device)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


class DeviceDecoder:
    """Turns the encoded images of a batch into packed ones on a device.

    Args:
        device: Where images are decoded and packed.
        decode: Decodes a list of JPEG files on a device, as `decode_jpegs` does.
    """

    def __init__(self, device: torch.device, decode: Decode = decode_jpegs) -> None:
        self.device = device
        self._decode = decode
        # On a stream of its own, decoding runs beside the training step, and only waits for itself.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, encoded: EncodedImages) -> PackedImages:
        """Returns the decoded images.

        Raises:
            DataError: An image can be decoded neither by the device nor by the CPU.
        """
        if self._stream is None:
            return self._pack(encoded)
        with torch.cuda.stream(self._stream):
            packed = self._pack(encoded)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        packed.record_stream(current)
        return packed

    def _pack(self, encoded: EncodedImages) -> PackedImages:
        items = encoded.unpacked()
        left = [item for item in items if isinstance(item, Undecoded)]
        pixels = self._decode_all([item.image for item in left])
        grids = _to_host([item.plan.grid(image) for item, image in zip(left, pixels, strict=True)])
        found = (item.plan.unrendered(image, grid) for item, image, grid in zip(left, pixels, grids, strict=True))
        ready = [next(found) if isinstance(item, Undecoded) else self._moved(item) for item in items]
        return PackedImages.of(ready).to(self.device)

    def _moved(self, image: Unrendered) -> Unrendered:
        return image._replace(pixels=image.pixels.to(self.device))

    def _decode_all(self, files: list[EncodedImage]) -> list[Tensor]:
        """Returns the images uint8 [3, H, W], with their EXIF orientations applied."""
        try:
            if self._stream is not None:
                # nvJPEG writes on yet another stream, which does not wait for readers of the memory that it gets.
                self._stream.synchronize()
            decoded = self._decode([file.content for file in files], self.device)
            if all(tuple(image.shape) == (3, *file.size) for image, file in zip(decoded, files, strict=True)):
                return [file.oriented(image) for image, file in zip(decoded, files, strict=True)]
        except RuntimeError:
            if self._stream is not None:
                torch.cuda.synchronize(self.device)  # the images before a broken one may still be written
        if len(files) > 1:  # find out which one
            return [image for file in files for image in self._decode_all([file])]
        return [self._decode_on_cpu(file) for file in files]

    def _decode_on_cpu(self, file: EncodedImage) -> Tensor:
        image = decode_image(file.content.numpy(), "", apply_exif=file.orientation != 1)
        if tuple(image.shape) != file.shape:
            raise DataError(f"the header says {file.shape}, the image is {tuple(image.shape)}")
        return image.to(self.device)


def _to_host(grids: list[Tensor | None]) -> list[Tensor | None]:
    """Moves grids [3, N] to host memory by one copy."""
    present = [grid for grid in grids if grid is not None]
    if not present:
        return grids
    flat = torch.cat([grid.reshape(-1) for grid in present]).cpu()
    parts = iter(flat.split([grid.numel() for grid in present]))
    return [None if grid is None else next(parts).view(grid.shape) for grid in grids]
