"""Loss statistics, accumulated on the device so that a training step does not synchronize."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from ssd.engine.distributed import World
from ssd.engine.error_messages import SharedError

_DIVERGED = 1e4  # mean of both losses
_NOTABLE_WAIT = 0.1  # share of the time


class EpochMeans:
    """Mean losses and images per second of an epoch."""

    def __init__(self) -> None:
        self.loc = self.cls = self.images = self.seconds = 0.0
        self.waiting = 0.0  # seconds without a batch
        self.steps = 0

    def add(self, row: dict[str, float], steps: int, seconds: float) -> None:
        """Adds the result of `LossMeter.read` over a number of steps."""
        self.loc += row["loc_loss"] * steps
        self.cls += row["cls_loss"] * steps
        self.images += row["images_per_second"] * seconds
        self.seconds += seconds
        self.steps += steps

    def __str__(self) -> str:
        steps, seconds = max(self.steps, 1), max(self.seconds, 1e-9)
        return f"loc loss {self.loc / steps:.3f}, cls loss {self.cls / steps:.3f}, {self.images / seconds:.1f} images/s"

    def describe_waiting(self) -> str:
        """Returns how long the device waited for data, if that is notable, to follow other text."""
        share = self.waiting_share()
        return f", waiting for data {share:.0%}" if share >= _NOTABLE_WAIT else ""

    def describe_divergence(self) -> str:
        """Returns a hint to follow other text, if the losses are finite, but far above those of random weights."""
        has_diverged = self.loc + self.cls > _DIVERGED * self.steps
        return " (diverged: try a tenth of --lr, or --clip-grad-norm 10)" if has_diverged else ""

    def waiting_share(self) -> float:
        """Returns the share of the time in which the device had no batch."""
        return self.waiting / max(self.seconds, 1e-9)


class LossMeter:
    """Accumulates losses and records the first step with a non-finite loss.

    Args:
        world: Process group; all processes must call `add` equally often and `read` together.
        device: Device of the losses.
        save: Saves the batch at this position of the epoch, on the process whose loss was not finite, or gets None on
            the others; returns sentences for the error message.
    """

    def __init__(self, world: World, device: torch.device, save: Callable[[int, int | None], str]) -> None:
        self.world = world
        self.save = save
        self.device = device
        self.sums, self.first_non_finite = self._zeros()
        self.seen: dict[int, tuple[list[int], int]] = {}  # step -> image ids and position in the epoch
        self.start = time.perf_counter()
        self.epoch = EpochMeans()

    def add(self, losses: dict[str, Tensor], step: int, image_ids: list[int], position: int) -> None:
        """Adds the losses of a step and the batch that it used, without synchronizing with the device."""
        loc, cls = losses["loc"].double(), losses["cls"].double()
        self.sums += torch.stack([loc, cls])
        bad_here = torch.where(torch.isfinite(loc + cls), math.inf, float(step))
        self.first_non_finite = torch.minimum(self.first_non_finite, bad_here)
        self.seen[step] = (image_ids, position)

    def read(self) -> dict[str, float]:
        """Returns the mean losses over steps and processes since the last call, and the total images per second.

        Raises:
            SharedError: A loss was not finite; the message names the step, the process and its images.
        """
        images = sum(len(ids) for ids, _ in self.seen.values())
        own = torch.cat([self.sums, self.first_non_finite[None], self.sums.new_tensor([images])])
        rows = [own]
        if self.world.size > 1:
            rows = [torch.empty_like(own) for _ in range(self.world.size)]
            dist.all_gather(rows, own)
        values = torch.stack(rows).tolist()  # the only synchronization with the device
        seconds = time.perf_counter() - self.start
        bad = [row[2] for row in values]
        if min(bad) < math.inf:
            self._raise_non_finite(int(min(bad)), bad.index(min(bad)))
        count = len(values) * len(self.seen)
        row = {
            "loc_loss": sum(row[0] for row in values) / count,
            "cls_loss": sum(row[1] for row in values) / count,
            "images_per_second": sum(row[3] for row in values) / seconds,
        }
        self.epoch.add(row, len(self.seen), seconds)
        self._clear()
        return row

    def _raise_non_finite(self, step: int, rank: int) -> None:
        ids, position = self.seen.get(step, ([], 0))
        sentences = self.world.gather(self.save(step, position if rank == self.world.rank else None))
        ids = self.world.gather(ids)[rank]
        who = f" of process {rank} of {self.world.size}" if self.world.size > 1 else ""
        raise SharedError(
            f"the loss{who} is not finite at step {step} (image ids {ids}). {sentences[rank]}Common causes: the learning "
            "rate is too high (try a tenth of --lr), no warmup (--warmup-iters), or no gradient clipping "
            "(--clip-grad-norm 10)"
        )

    def _clear(self) -> None:
        self.sums, self.first_non_finite = self._zeros()
        self.seen = {}
        self.start = time.perf_counter()

    def _zeros(self) -> tuple[Tensor, Tensor]:
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # loc, cls
        return sums, torch.full((), math.inf, dtype=torch.float64, device=self.device)
