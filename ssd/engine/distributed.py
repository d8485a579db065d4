"""Distributed training under torchrun: process group, reductions, and a common exit after an error."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssd.common.errors import ConfigError
from ssd.engine.error_messages import SharedError, as_user_error
from ssd.models.frozen import FrozenBatchNorm2d

_TIMEOUT = timedelta(hours=2)  # the others wait while the first process computes COCO metrics


@dataclass(frozen=True)
class World:
    """The process group of a run; in a world of size 1 no method communicates.

    Args:
        rank: Rank of this process; rank 0 prints and writes the run folder.
        size: Number of processes.
        local_rank: Rank of this process on its machine, which is also its GPU index.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls, device: str = "auto", dist_url: str = "env://") -> World:
        """Initializes the process group from torchrun's environment variables; without them the world has size 1.

        NCCL reduces tensors on GPUs, gloo those on CPUs. All ranks but 0 discard their standard output.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        world = cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
        cuda = device != "cpu" and torch.cuda.is_available()
        if cuda:
            if world.local_rank >= torch.cuda.device_count():
                raise ConfigError(
                    f"--nproc_per_node must be at most the number of GPUs on this machine, {torch.cuda.device_count()}; "
                    "--device cpu has no such limit"
                )
            torch.cuda.set_device(world.local_rank)
        # Keys of their own for each restart by torchrun, whose store still has the addresses of the processes before it.
        store = next(iter(dist.rendezvous(dist_url, world.rank, world.size, timeout=_TIMEOUT)))[0]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store),
            rank=world.rank,
            world_size=world.size,
            timeout=_TIMEOUT,
        )
        if not world.is_first:
            sys.stdout = open(os.devnull, "w")  # stays open until the process exits
            warnings.simplefilter("ignore")
        return world

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prints and writes files."""
        return self.rank == 0

    def leave(self) -> None:
        """Destroys the process group at the end of a run."""
        if self.size > 1:
            dist.destroy_process_group()

    def sum(self, value: Tensor) -> Tensor:
        """Returns the sum of a tensor over all processes, without synchronizing with the device."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        """Returns the objects of all processes, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_on_first(self, value: Any) -> list[Any]:
        """Returns the objects of all processes on rank 0, and an empty list on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(value, values)
        return values or []

    def from_first(self, value: Any) -> Any:
        """Returns the object of rank 0 on every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Broadcasts the running statistics of rank 0, so that all processes evaluate the same model."""
        if self.size > 1:
            parameters = {name for name, _ in model.named_parameters()}  # equal on all processes
            for name, value in model.state_dict().items():
                if name not in parameters:
                    dist.broadcast(value, 0)

    def loss_normalizer(self, labels: Tensor, normalizer: str) -> Tensor:
        """Returns what the loss of the whole batch is divided by: the number of positives (or images) of all processes.

        One all-reduce for a step, in how many parts each process may take its images. Does not synchronize with the device.

        Args:
            labels: int64 `[B, P]` of `ssd_ops.match_priors`, of all images of this process.
            normalizer: "batch" (positives), "image" or "batch_size", as in `ssd_ops.multibox_loss`. Its mining="batch"
                covers the images of a part only.
        """
        return self.sum(_normalizer(labels, normalizer)).clamp(min=1)

    def loss_factor(self, labels: Tensor, normalizer: str, whole: Tensor) -> Tensor:
        """Returns the factor on the loss of a part that makes DDP's mean of sums the gradient of the whole batch.

        The loss of a part is divided by its own number of positives (or images), at least 1, and DDP averages over
        processes; the loss of the whole batch is divided by the total number.

        Args:
            labels: int64 `[B', P]`, of the images of the part.
            normalizer: As for `loss_normalizer`.
            whole: The result of `loss_normalizer`.

        Returns:
            A float64 scalar on the device of `labels`.
        """
        return self.size * _normalizer(labels, normalizer).clamp(min=1) / whole

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:
        """Makes a block succeed on all processes, or raises the first error on all of them.

        Raises:
            SharedError: The block failed on at least one of several processes.
        """
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        messages = self.gather(None if error is None else _message(error))
        failed = [rank for rank, message in enumerate(messages) if message is not None]
        if not failed:
            return
        where = "" if len(failed) == self.size else f" (process {failed[0]} of {self.size})"
        raise SharedError(messages[failed[0]] + where) from error

    @contextlib.contextmanager
    def local_first(self) -> Iterator[None]:
        """Runs a block on the first process of each machine before the others, such as a download they then reuse."""
        if self.size == 1:
            yield
        elif self.local_rank > 0:
            dist.barrier()
            yield
        else:
            try:
                yield
            finally:
                dist.barrier()


@contextlib.contextmanager
def ddp_ended(state: Any) -> Iterator[None]:
    """Replaces the DDP of a state by its model after a block, also one that fails.

    If DDP were the last to hold the process group, it would destroy the group while it holds Python's lock: gloo joins its
    threads there, and one that still frees tensors of the last gather waits for this lock, forever.
    """
    try:
        yield
    finally:
        if state.world.size > 1:
            state.network = state.model.forward_levels
            gc.collect()


def _normalizer(labels: Tensor, normalizer: str) -> Tensor:
    """Returns what `ssd_ops.multibox_loss` divides by, before its lower limit of 1, as a float64 scalar."""
    if normalizer in ("image", "batch_size"):
        return torch.full((), len(labels), dtype=torch.float64, device=labels.device)
    return (labels > 0).sum(dtype=torch.float64)


def exit_with_error(error: Exception) -> NoReturn:
    """Prints an error, with the rank if there are several processes, and exits with 1."""
    if not dist.is_initialized():
        sys.exit(f"error: {error}")
    rank, size = dist.get_rank(), dist.get_world_size()
    if not isinstance(error, SharedError):
        sys.exit(f"error in process {rank} of {size}: {error}")
    if rank == 0:
        print(f"error: {error}", file=sys.stderr, flush=True)
    dist.barrier()  # torchrun kills all processes when one exits, so none may exit before rank 0 has printed
    sys.exit(1)


def is_peer_failure(error: Exception) -> bool:
    """Returns whether an error only means that another process exited, which prints the cause itself."""
    return (
        dist.is_initialized()
        and not isinstance(error, OSError)
        and (isinstance(error, dist.DistError) or "Connection" in str(error))
    )


def _message(error: Exception) -> str:
    # The text of an expected error, the traceback of any other.
    if (user_error := as_user_error(error)) is not None:
        return str(user_error)
    return "".join(traceback.format_exception(error)).rstrip()


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Replaces every BatchNorm of a model that is not frozen by SyncBatchNorm, in place.

    Raises:
        ConfigError: The device is a CPU.
    """
    if device.type == "cpu":
        raise ConfigError("--sync-bn needs GPUs (torch's SyncBatchNorm has no CPU version); omit it with --device cpu")
    for name, child in model.named_children():
        if not isinstance(child, nn.modules.batchnorm._BatchNorm):
            synchronize_batch_norm(child, device)
        elif not isinstance(child, FrozenBatchNorm2d):
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
