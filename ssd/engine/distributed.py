"""The processes of a training run under torchrun: who they are, what they add up, and how they end together."""

from __future__ import annotations

import contextlib
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

from ssd.engine.error_messages import SharedError, TrainingError, plain
from ssd.errors import ConfigError
from ssd.models.frozen import FrozenBatchNorm2d

__all__ = ["SharedError", "TrainingError", "World", "end", "is_loss_of_contact", "plain", "synchronize_batch_norm"]

# Others wait this long for a process, as for the first one while it computes COCO's numbers.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """The processes of a run; one alone is a world of size 1, where nothing below communicates.

    Args:
        rank: number of this process among `size`; 0 prints, and writes the run folder.
        size: number of processes.
        local_rank: number of this process on its machine, which is also the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls, device: str = "auto", dist_url: str = "env://") -> World:
        """Join the processes that torchrun started (it says so in the environment), or be alone.

        Tensors on GPUs are summed by NCCL, those on CPUs by gloo. All processes but the first are silenced.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        world = cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
        cuda = device != "cpu" and torch.cuda.is_available()
        if cuda:
            if world.local_rank >= torch.cuda.device_count():
                raise ConfigError(
                    f"--nproc_per_node must be at most the number of GPUs here, {torch.cuda.device_count()}, or else "
                    "give --device cpu"
                )
            torch.cuda.set_device(world.local_rank)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            init_method=dist_url,
            rank=world.rank,
            world_size=world.size,
            timeout=_PATIENCE,
        )
        if not world.is_first:
            sys.stdout = open(os.devnull, "w")  # until the process ends
            warnings.simplefilter("ignore")
        return world

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def leave(self) -> None:
        """Take leave of the others at the end of a run."""
        if self.size > 1:
            dist.destroy_process_group()

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes; the host does not wait for the device."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        """The objects of all processes, on all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_on_first(self, value: Any) -> list[Any]:
        """The objects of all processes on the first one, nothing on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(value, values)
        return values or []

    def from_first(self, value: Any) -> Any:
        """The object that the first process has; the others wait for it."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the running statistics of the first one, so that all evaluate one model."""
        if self.size > 1:
            learned = {name for name, _ in model.named_parameters()}  # the same on all processes
            for name, value in model.state_dict().items():
                if name not in learned:
                    dist.broadcast(value, 0)

    def loss_factor(self, labels: Tensor, normalizer: str) -> Tensor | None:
        """What to multiply this process's loss with, so that DDP's mean is the gradient of one process on all images.

        Each process divides its loss by its own positives (or images), at least 1, and DDP then takes the mean over
        processes; the loss of the joint batch is divided by the sum of positives. No process waits on its host.

        Args:
            labels: int64 [B, P] of ssd_ops.match_priors.
            normalizer: "batch" (positives), "image" or "batch_size", of ssd_ops.multibox_loss. Its mining="batch" looks
                at the images of this process alone.
        Returns:
            a scalar float64 on the device of `labels`; None for one process alone.
        """
        if self.size == 1:
            return None
        if normalizer in ("image", "batch_size"):
            own = torch.full((), len(labels), dtype=torch.float64, device=labels.device)
        else:
            own = (labels > 0).sum(dtype=torch.float64)
        return self.size * own.clamp(min=1) / self.sum(own).clamp(min=1)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A stretch of work that succeeds on all processes or ends all of them, with the first error, told once."""
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        said = self.gather(None if error is None else _told(error))
        failed = [i for i, text in enumerate(said) if text is not None]
        if not failed:
            return
        where = "" if len(failed) == self.size else f" (process {failed[0]} of {self.size})"
        raise SharedError(said[failed[0]] + where) from error

    @contextlib.contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Lets the first process of each machine go first, as for a download that the others then find done."""
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


def end(error: Exception) -> NoReturn:
    """End this process with the message of an error, which names the process where there are several."""
    if not dist.is_initialized():
        sys.exit(f"error: {error}")
    rank, size = dist.get_rank(), dist.get_world_size()
    if not isinstance(error, SharedError):
        sys.exit(f"error in process {rank} of {size}: {error}")
    if rank == 0:
        print(f"error: {error}", file=sys.stderr, flush=True)
    dist.barrier()  # torchrun ends the others as soon as one has ended, so nobody leaves before it is told
    sys.exit(1)


def is_loss_of_contact(error: Exception) -> bool:
    """Whether an error only says that another process has ended, whose own message tells why."""
    return (
        dist.is_initialized()
        and not isinstance(error, OSError)
        and (isinstance(error, dist.DistError) or "Connection" in str(error))
    )


def _told(error: Exception) -> str:
    """What a user needs of an error: its text, or the trace of one that nobody expected."""
    if (told := plain(error)) is not None:
        return str(told)
    return "".join(traceback.format_exception(error)).rstrip()


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm of a model that learns take its statistics over all processes, in place."""
    if device.type == "cpu":
        raise ConfigError(
            "--sync-bn needs GPUs (torch's SyncBatchNorm has no CPU version); leave it out on --device cpu"
        )
    for name, child in model.named_children():
        if not isinstance(child, nn.modules.batchnorm._BatchNorm):
            synchronize_batch_norm(child, device)
        elif not isinstance(child, FrozenBatchNorm2d):
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
