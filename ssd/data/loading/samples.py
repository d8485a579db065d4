"""Loads and transforms single samples, each under its own random stream."""

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssd.data.dataset import DetectionDataset, ImageError, Target
from ssd.data.faults import Fault
from ssd.data.loading.encoded_images import EncodedImage, Undecoded
from ssd.data.loading.packed_images import Unrendered

Sample = tuple[Tensor | Unrendered | Undecoded, Target]
Transform = Callable[[Any, Target], Sample]
Key = tuple[int, int]  # epoch, index
_Decoded = tuple[Tensor, Target]
_ATTEMPTS = 20  # images tried in place of a broken one before giving up


@runtime_checkable
class MixingTransform(Protocol):
    """A transform that combines samples before it transforms them, such as by a mosaic."""

    def mix(self, image: Tensor, target: Target, draw: Callable[[], _Decoded | None]) -> _Decoded:
        """Returns a sample made of this one and those of `draw`, which returns a random one, or None."""


@runtime_checkable
class EncodedTransform(Protocol):
    """A transform that also accepts JPEG files, `EncodedImage`, and returns them as `Undecoded`."""

    def accepts_encoded(self, mixes: bool) -> bool:
        """Returns whether it does so, in epochs in which samples are mixed or not."""


class Item(NamedTuple):
    """A sample as it was loaded."""

    key: Key
    sample: Sample | None  # None: no image can be read
    faults: list[Fault]  # of the images that were tried


class Samples(Dataset[Item]):
    """Loads and transforms one sample under its own random stream; broken images come back as faults."""

    def __init__(
        self,
        dataset: DetectionDataset,
        transforms: Transform | None,
        seed: int,
        replace_broken: bool,
        encoded: bool = False,
    ) -> None:
        self.dataset, self.transforms, self.seed = dataset, transforms, seed
        self.mixed_epochs = sys.maxsize  # epochs in which a MixingTransform combines samples
        self.attempts = min(_ATTEMPTS, len(dataset)) if replace_broken else 1
        self.encoded = encoded  # whether JPEG files stay encoded where the transform accepts them
        self.last_read: np.ndarray | None = (
            None  # int64 `[workers]`, shared by all processes: image each has begun last
        )

    def __getitem__(self, key: Key) -> Item:
        mixes, transforms = key[0] < self.mixed_epochs, self.transforms
        is_encoded = self.encoded and isinstance(transforms, EncodedTransform) and transforms.accepts_encoded(mixes)
        return self._seeded(key, is_encoded)

    def decoded(self, key: Key) -> Item:
        """Returns a sample as without `encoded`."""
        return self._seeded(key, False)

    def _seeded(self, key: Key, is_encoded: bool) -> Item:
        epoch, index = key
        read = self.dataset.encoded_sample if is_encoded else self.dataset.__getitem__
        with _random_stream(mixed_seed(self.seed, epoch, index)):
            return Item(key, *self._load(index, epoch < self.mixed_epochs, read))

    def _load(
        self, index: int, mixes: bool, read: Callable[[int], tuple[Tensor | EncodedImage, Target]]
    ) -> tuple[Sample | None, list[Fault]]:
        faults: list[Fault] = []
        for step in range(self.attempts):
            try:
                image, target = read(self._noted((index + step) % len(self.dataset)))
            except ImageError as error:
                faults.append(error.fault)
                continue
            target = {**target, "size": tuple(image.shape[1:])}
            if mixes and isinstance(self.transforms, MixingTransform) and isinstance(image, Tensor):
                image, target = self.transforms.mix(image, target, lambda: self._draw(faults))
            if self.transforms is not None:
                return self.transforms(image, target), faults
            assert isinstance(image, Tensor)  # only transforms accept others
            return (image, target), faults
        return None, faults

    def _draw(self, faults: list[Fault]) -> _Decoded | None:
        for _ in range(self.attempts):
            try:
                return self.dataset[self._noted(int(torch.randint(len(self.dataset), ())))]
            except ImageError as error:
                faults.append(error.fault)
        return None

    def _noted(self, index: int) -> int:
        info = torch.utils.data.get_worker_info()
        if self.last_read is not None and info is not None:
            self.last_read[info.id] = index
        return index


def mixed_seed(*numbers: int) -> int:
    """Returns one well-mixed 63-bit seed of a few small integers; sums or shifts of them would make neighbors alike."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


@contextlib.contextmanager
def _random_stream(seed: int) -> Iterator[None]:
    """Seeds torch, numpy and Python for a block: a user's own data set and transforms may draw from any of them.

    Their streams are restored, except in a worker process, which draws from them here alone.
    """
    in_worker = torch.utils.data.get_worker_info() is not None
    states = None if in_worker else (torch.default_generator.get_state(), np.random.get_state(), random.getstate())
    # The CPU generator alone: torch.manual_seed would also reset the GPU's, and with it dropout.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        if states is not None:
            torch.default_generator.set_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
