"""Loads batches: order, seeds, worker processes, and handling of broken images.

Every sample has its own random stream, seeded by (seed, epoch, index). So a run gives the same batches with any
number of workers, and a resumed run those of the run that was not interrupted; `loader.set_epoch(e, start)`
is all it takes.
"""

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssd.data.dataset import DetectionDataset, ImageError, Target
from ssd.data.faults import DataError, Fault, list_faults
from ssd.data.loading.batch import Batch, collate
from ssd.data.loading.packed_images import Unrendered
from ssd.data.loading.workers import WatchedDataLoader, start_method, start_worker

Sample = tuple[Tensor | Unrendered, Target]
Transform = Callable[[Tensor, Target], Sample]
_Decoded = tuple[Tensor, Target]
_Key = tuple[int, int]  # epoch, index
_ATTEMPTS = 20  # images tried in place of a broken one before giving up


@runtime_checkable
class MixingTransform(Protocol):
    """A transform that combines samples before it transforms them, such as by a mosaic."""

    def mix(self, image: Tensor, target: Target, draw: Callable[[], _Decoded | None]) -> _Decoded:
        """Returns a sample made of this one and those of `draw`, which returns a random one, or None."""


class Loader:
    """Iterates over the batches of one epoch; each `iter` begins the next epoch.

    `position` counts the batches of the epoch that were yielded, or skipped because none of their images can be read.
    `build_loader` returns it.
    """

    def __init__(self, loader: "DataLoader[Any]", batches: "_EpochBatches", dataset: DetectionDataset) -> None:
        self.dataset = dataset
        self._loader = loader
        self._batches = batches
        self.position = 0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def epoch(self) -> int:
        """The epoch of the next `iter`, counted from 0."""
        return self._batches.epoch

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Sets the epoch of the next `iter` and its first batch, for resuming."""
        self._batches.epoch, self._batches.start = epoch, start

    def restart_workers(self) -> None:
        """Replaces the worker processes at the next `iter`, after one of them has ended."""
        self._loader._iterator = None

    def __iter__(self) -> Iterator[Batch]:
        images = 0
        self.position = self._batches.start
        expected = len(self) > self.position
        for batch, faults in self._loader:
            self.position += 1
            for fault in faults:
                self.dataset.log.add(fault)
            self.dataset.log.check(self.dataset.name)
            images += len(batch)
            if len(batch):
                yield batch
        if not images and expected:
            raise DataError(f"{self.dataset.name}: none of its images can be read\n{list_faults(self.dataset.report)}")

    def forever(self) -> Iterator[Batch]:
        """Yields the batches of one epoch after another, endlessly."""
        while True:
            yield from self


def build_loader(
    dataset: DetectionDataset,
    transforms: Transform | None,
    batch_size: int,
    *,
    train: bool,
    workers: int = 0,
    seed: int = 0,
    drop_last: bool | None = None,
    pin_memory: bool | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """Builds the loader of a data set.

    In training the order is shuffled every epoch, and an image that cannot be read is replaced by the next one, so that
    every batch is full; in evaluation the order is that of the data set, and such an image is skipped. In both cases
    it is in `dataset.report` after the epoch, or, with `on_error="raise"`, an error names it.

    Args:
        dataset: The data set.
        transforms: `(image, target) -> (image, target)`; the returned images must have one size, or be `Unrendered`. A
            `MixingTransform` gets other samples first.
        batch_size: Number of images per batch of this process.
        train: Whether to shuffle, replace broken images, and drop a short last batch.
        workers: Number of worker processes; 0 loads in this process.
        seed: Seed of order and augmentation.
        drop_last: Whether to drop a short last batch; None: as `train`. A data set smaller than a batch is never dropped.
        pin_memory: Whether to pin the batches; None: if there is a CUDA device.
        rank: Rank of this process. In training all ranks get the same number of images, with repetitions if it does not
            divide evenly; in evaluation each image goes to exactly one process.
        world_size: Number of processes.

    Raises:
        DataError: a number out of range.
    """
    if batch_size < 1 or workers < 0 or not 0 <= rank < world_size or seed < 0:
        raise DataError(
            "build_loader needs batch_size >= 1, workers >= 0, seed >= 0 and 0 <= rank < world_size, got "
            f"batch_size {batch_size}, workers {workers}, seed {seed}, rank {rank}, world_size {world_size}"
        )
    batches = _EpochBatches(
        len(dataset), batch_size, train, train if drop_last is None else drop_last, seed, rank, world_size
    )
    loader = WatchedDataLoader(
        _Samples(dataset, transforms, seed, replace_broken=train),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        generator=torch.Generator().manual_seed(seed),  # without one it would draw from the global generator
        worker_init_fn=start_worker if workers else None,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method() if workers else None,
    )
    return Loader(loader, batches, dataset)


class _EpochBatches:
    """Yields the keys of each batch of an epoch, and counts the epochs."""

    def __init__(
        self, size: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int, rank: int, world_size: int
    ) -> None:
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0  # batches of the next epoch to skip
        self.num_images = len(self._indices(0))  # images of this process in an epoch
        self.drop_last = drop_last and self.num_images >= batch_size
        if drop_last and not self.drop_last:
            warnings.warn(
                f"a batch of {batch_size} is more than the {self.num_images} images, so batches are short", stacklevel=3
            )

    def _indices(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.rank, self.size, self.world_size))
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        order = torch.randperm(self.size, generator=generator).tolist()
        count = -(-self.size // self.world_size)
        order = (order * self.world_size)[: count * self.world_size]
        return order[self.rank :: self.world_size]

    def __len__(self) -> int:
        return self.num_images // self.batch_size if self.drop_last else -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[list[_Key]]:
        epoch, first = self.epoch, self.start
        self.epoch, self.start = self.epoch + 1, 0
        indices = self._indices(epoch)
        for start in range(first * self.batch_size, len(self) * self.batch_size, self.batch_size):
            yield [(epoch, index) for index in indices[start : start + self.batch_size]]


class _Samples(Dataset[tuple[Sample | None, list[Fault]]]):
    """Loads and transforms one sample under its own random stream; broken images come back as faults."""

    def __init__(
        self, dataset: DetectionDataset, transforms: Transform | None, seed: int, replace_broken: bool
    ) -> None:
        self.dataset, self.transforms, self.seed = dataset, transforms, seed
        self.attempts = min(_ATTEMPTS, len(dataset)) if replace_broken else 1

    def __getitem__(self, key: _Key) -> tuple[Sample | None, list[Fault]]:
        epoch, index = key
        with _random_stream(_mix(self.seed, epoch, index)):
            return self._load(index)

    def _load(self, index: int) -> tuple[Sample | None, list[Fault]]:
        faults: list[Fault] = []
        for step in range(self.attempts):
            try:
                image, target = self.dataset[(index + step) % len(self.dataset)]
            except ImageError as error:
                faults.append(error.fault)
                continue
            target = {**target, "size": tuple(image.shape[1:])}
            if isinstance(self.transforms, MixingTransform):
                image, target = self.transforms.mix(image, target, lambda: self._draw(faults))
            return ((image, target) if self.transforms is None else self.transforms(image, target)), faults
        return None, faults

    def _draw(self, faults: list[Fault]) -> _Decoded | None:
        for _ in range(self.attempts):
            try:
                return self.dataset[int(torch.randint(len(self.dataset), ()))]
            except ImageError as error:
                faults.append(error.fault)
        return None


def _collate(items: list[tuple[Sample | None, list[Fault]]]) -> tuple[Batch, list[Fault]]:
    faults = [fault for _, found in items for fault in found]
    return collate([sample for sample, _ in items if sample is not None]), faults


def _mix(*numbers: int) -> int:
    # One well-mixed 63-bit seed of a few small integers; sums or shifts of them would make neighbors alike.
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
