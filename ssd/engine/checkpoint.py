"""What last.pt and best.pt hold, and how a run goes on from them, bit for bit as if it had not ended."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.checkpoints.classes import reorder_classes
from ssd.engine.step import State
from ssd.errors import ConfigError
from ssd.models.weight_files import few, load_file

_NEEDED = ("model", "optimizer", "schedule", "epoch", "step", "random", "build_args")


def collect(state: State, streams: list[dict[str, Any]]) -> dict[str, Any]:
    """Gather all that a run needs to go on.

    Args:
        state: of the run.
        streams: `random_streams` of each process.
    """
    return {
        **{part: value.state_dict() for part, value in state.parts().items()},
        "optimized": optimized_names(state),
        "build_args": state.model.build_args,
        "classes": list(state.classes),
        "apply_exif": state.apply_exif,
        "epoch": state.epoch,
        "batch": state.batch,
        "step": state.step,
        "steps_per_epoch": state.steps_per_epoch,
        "images_per_step": state.images_per_step,
        "evaluated": state.evaluated,
        "best": state.best,
        "random": streams,
    }


def size_of(checkpoint: Any) -> int:
    """Bytes of all tensors in a checkpoint."""
    if isinstance(checkpoint, Tensor):
        return checkpoint.numel() * checkpoint.element_size()
    values = checkpoint.values() if isinstance(checkpoint, Mapping) else checkpoint
    return sum(map(size_of, values)) if isinstance(checkpoint, (Mapping, list, tuple)) else 0


def find_checkpoint(source: str | Path) -> Path:
    """The checkpoint that --resume names: a file, or the last one of a run folder."""
    path = Path(source)
    if not path.is_dir():
        return path
    if not (path / "last.pt").is_file() and (path / "best.pt").is_file():
        raise ConfigError(f"--resume {source}: there is no checkpoint {path / 'last.pt'}; {path / 'best.pt'} is there")
    return path / "last.pt"


def read(source: str | Path) -> dict[str, Any]:
    """Read a checkpoint to go on from, onto the CPU.

    Raises:
        ConfigError: there is none, it is damaged, or not one of a training run of this project.
    """
    path = find_checkpoint(source)
    if not path.is_file():
        raise ConfigError(f"--resume {source}: there is no checkpoint {path}")
    try:
        content = load_file(path)
    except ValueError as error:
        raise ConfigError(f"--resume {source}: {error}") from error
    missing = [name for name in _NEEDED if name not in content] if isinstance(content, Mapping) else list(_NEEDED)
    if missing:
        raise ConfigError(
            f"--resume {path}: this is no checkpoint of a training run, it has no {', '.join(missing)}. If it holds "
            "weights, of this or another system, --weights takes them"
        )
    return dict(content)


def restore(checkpoint: dict[str, Any], source: str | Path, state: State) -> None:
    """Go on from a checkpoint: weights, optimizer, schedule, loss scaler, EMA, position in the data, random streams.

    Settings of the optimizer and the schedule are the state's own, as configured; the checkpoint gives what they have
    learned and how far they are.

    Raises:
        ConfigError: it does not fit the model, its classes, or the configuration.
    """
    if ("average" in checkpoint) != (state.average is not None):
        raise ConfigError(f"--resume {source}: --ema-decay must stay {'above ' if 'average' in checkpoint else ''}0")
    saved = tuple(map(str, checkpoint.get("classes", ())))
    if saved and state.classes and sorted(saved) != sorted(state.classes):
        raise ConfigError(
            f"--resume {source}: its classes are {few(saved)}, those of the data {few(state.classes)}; a new run "
            "may start from its weights by --weights"
        )
    try:
        state.model.load_state_dict(checkpoint["model"])
        _restore_optimizer(checkpoint, state)
        if state.average is not None:
            state.average.load_state_dict(checkpoint["average"])
        if checkpoint.get("scaler") and state.scaler.is_enabled():
            state.scaler.load_state_dict(checkpoint["scaler"])
        if saved and state.classes:
            reorder_classes(state.model, saved, state.classes, optimizer=state.optimizer)
            if state.average is not None:
                reorder_classes(state.average.module, saved, state.classes)  # type: ignore[arg-type]
        _restore_position(checkpoint, state)
        streams = checkpoint["random"]
        if len(streams) == state.world.size:  # with another number of processes the order of images is another anyway
            set_random_streams(streams[state.world.rank])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--resume {source} does not fit this model and configuration: {_shortened(error)}"
        ) from error


def optimized_names(state: State) -> list[str]:
    """Names of the weights, in the order in which the optimizer's state dict counts them."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return [names[id(p)] for group in state.optimizer.param_groups for p in group["params"]]


def _restore_optimizer(checkpoint: dict[str, Any], state: State) -> None:
    """Bring what the optimizer keeps for each weight back by the weight's name: other rates make other groups."""
    saved, own = checkpoint["optimizer"], state.optimizer.state_dict()
    names = optimized_names(state)
    lengths = [[len(group["params"]) for group in groups["param_groups"]] for groups in (saved, own)]
    order = checkpoint.get("optimized") or (names if lengths[0] == lengths[1] else None)
    if order is None:
        raise ValueError("the optimizer has other groups of weights")
    kept = {order[index]: value for index, value in saved["state"].items()}
    own["state"] = {index: kept[name] for index, name in enumerate(names) if name in kept}
    state.optimizer.load_state_dict(own)


def _restore_position(checkpoint: dict[str, Any], state: State) -> None:
    state.epoch, state.step, state.best = checkpoint["epoch"], checkpoint["step"], checkpoint["best"]
    state.batch = checkpoint.get("batch", 0)
    state.evaluated = checkpoint.get("evaluated", state.epoch)
    at = checkpoint["schedule"]["last_epoch"]
    steps = checkpoint.get("steps_per_epoch", state.steps_per_epoch)
    if checkpoint.get("images_per_step", state.images_per_step) != state.images_per_step:
        state.batch = state.batch * checkpoint["images_per_step"] // state.images_per_step  # the same place in the data
    if steps != state.steps_per_epoch:
        at = round(at * state.steps_per_epoch / steps)
    state.batch = min(state.batch, state.steps_per_epoch)
    state.move_schedule(at)


def _shortened(error: Exception) -> str:
    """The first lines of an error: load_state_dict lists every name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    text = " ".join(lines[:2])
    return (text if len(text) <= 300 else text[:300] + "...") + (f" ({len(lines) - 2} more)" if len(lines) > 2 else "")


def random_streams() -> dict[str, Any]:
    """The states of all random generators that training draws from."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_streams(state: dict[str, Any]) -> None:
    """Set all random generators to states of `random_streams`."""
    torch.set_rng_state(state["torch"].cpu())
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "numpy" in state:
        keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
