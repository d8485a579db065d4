"""Loads batches: order, seeds, worker processes, and handling of broken images.

Every sample has its own random stream, seeded by (seed, epoch, index). So a run gives the same batches with any
number of workers, and a resumed run those of the run that was not interrupted; `loader.set_epoch(e, start)`
is all it takes.
"""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssd.data.dataset import DetectionDataset
from ssd.data.faults import DataError, Fault, list_faults
from ssd.data.loading.batch import Batch, collate, make_batch
from ssd.data.loading.device_decoder import DeviceDecoder
from ssd.data.loading.encoded_images import EncodedImages, Undecoded
from ssd.data.loading.samples import Item, Key, Samples, Transform, mixed_seed
from ssd.data.loading.workers import WatchedDataLoader, shared_integers, start_method, start_worker


class Loader:
    """Iterates over the batches of one epoch; each `iter` begins the next epoch.

    `position` counts the batches of the epoch that were yielded, or skipped because none of their images can be read.
    `build_loader` returns it.
    """

    def __init__(
        self,
        loader: "DataLoader[Any]",
        batches: "_EpochBatches",
        samples: Samples,
        decoder: DeviceDecoder | None = None,
    ) -> None:
        self.dataset = samples.dataset
        self._decoder = decoder
        self._samples = samples
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

    def mix_until(self, epoch: int) -> None:
        """Sets the epoch from which a `MixingTransform` no longer combines samples; before the first `iter`."""
        self._samples.mixed_epochs = epoch

    def restart_workers(self) -> None:
        """Replaces the worker processes at the next `iter`, after one of them has ended."""
        self._loader._iterator = None

    @contextlib.contextmanager
    def naming_lost_images(self) -> Iterator[None]:
        """Adds to an error of a block during which a worker process was killed the image that it has begun last."""
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            read = self._samples.last_read
            dead = self._loader.dead_workers() if isinstance(self._loader, WatchedDataLoader) else []
            files = [str(self.dataset.annotations.files[read[n]]) for n in dead if read is not None and read[n] >= 0]
            if not files:
                raise
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            text = first if "DataLoader worker" in first else f"DataLoader worker: {first}."
            raise RuntimeError(f"{text} The last image that it began to read: {', '.join(files)}") from error

    def __iter__(self) -> Iterator[Batch]:
        images = 0
        self.position = self._batches.start
        expected = len(self) > self.position
        for loaded, found in self._loader:
            batch, faults = self._decoded(loaded, found) if isinstance(loaded, _EncodedBatch) else (loaded, found)
            self.position += 1
            for fault in faults:
                self.dataset.log.add(fault)
            self.dataset.log.check(self.dataset.name)
            images += len(batch)
            if len(batch):
                yield batch
        if not images and expected:
            raise DataError(f"{self.dataset.name}: none of its images can be read\n{list_faults(self.dataset.report)}")

    def _decoded(self, loaded: "_EncodedBatch", faults: list[Fault]) -> tuple[Batch, list[Fault]]:
        assert self._decoder is not None
        try:
            return replace(loaded.objects, images=self._decoder(loaded.images)), faults
        except DataError:
            # Damage that the worker could not see: a worker that decodes would have read another image instead.
            items = [self._samples.decoded(key) for key in loaded.keys]
            return _batch_of(items), [fault for item in items for fault in item.faults]


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
    decoder: DeviceDecoder | None = None,
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
        decoder: Decodes JPEG files in this process, if the transform is an `EncodedTransform`; the images of a batch are
            then on its device. None: the workers decode all images.

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
    samples = Samples(dataset, transforms, seed, replace_broken=train, encoded=decoder is not None)
    samples.last_read = shared_integers(workers)
    loader = WatchedDataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        generator=torch.Generator().manual_seed(seed),  # without one it would draw from the global generator
        worker_init_fn=start_worker if workers else None,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method() if workers else None,
    )
    return Loader(loader, batches, samples, decoder)


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
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        order = torch.randperm(self.size, generator=generator).tolist()
        count = -(-self.size // self.world_size)
        order = (order * self.world_size)[: count * self.world_size]
        return order[self.rank :: self.world_size]

    def __len__(self) -> int:
        return self.num_images // self.batch_size if self.drop_last else -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, first = self.epoch, self.start
        self.epoch, self.start = self.epoch + 1, 0
        indices = self._indices(epoch)
        for start in range(first * self.batch_size, len(self) * self.batch_size, self.batch_size):
            yield [(epoch, index) for index in indices[start : start + self.batch_size]]


@dataclass(frozen=True)
class _EncodedBatch:
    """A batch of which some images are still JPEG files."""

    images: EncodedImages
    objects: Batch  # without images
    keys: list[Key]

    def pin_memory(self) -> "_EncodedBatch":
        """Returns the batch with pinned objects; files are decoded from any memory."""
        return replace(self, objects=self.objects.pin_memory())


def _collate(items: list[Item]) -> tuple[Batch | _EncodedBatch, list[Fault]]:
    faults = [fault for item in items for fault in item.faults]
    samples = [item.sample for item in items if item.sample is not None]
    images = [image for image, _ in samples if not isinstance(image, Tensor)]
    if not any(isinstance(image, Undecoded) for image in images):
        return _batch_of(items), faults
    side = images[0].canvas.side
    nothing = torch.empty(0, 3, side, side, dtype=torch.uint8)
    objects = make_batch(nothing, [target for _, target in samples], side, side)
    return _EncodedBatch(EncodedImages.of(images), objects, [item.key for item in items]), faults


def _batch_of(items: list[Item]) -> Batch:
    samples: list[Any] = [item.sample for item in items if item.sample is not None]
    return collate(samples)
