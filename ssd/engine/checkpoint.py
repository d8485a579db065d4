"""Checkpoints of a run (last.pt, best.pt): a resumed run continues bit for bit as if it had not been interrupted."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.checkpoints.classes import reorder_classes
from ssd.common.errors import ConfigError
from ssd.engine.step import State
from ssd.weight_files.load import few, load_file

_REQUIRED_KEYS = ("model", "optimizer", "schedule", "epoch", "step", "random", "build_args")


def collect(state: State, rng_states: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the content of a checkpoint.

    Args:
        state: State of the run.
        rng_states: `get_rng_state()` of each process.
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
        "evaluations_since_best": state.evaluations_since_best,
        "unlabeled_from": state.unlabeled_from,
        "random": rng_states,
    }


def num_bytes(checkpoint: Any) -> int:
    """Returns the total size of the tensors in a checkpoint, in bytes."""
    if isinstance(checkpoint, Tensor):
        return checkpoint.numel() * checkpoint.element_size()
    values = checkpoint.values() if isinstance(checkpoint, Mapping) else checkpoint
    return sum(map(num_bytes, values)) if isinstance(checkpoint, (Mapping, list, tuple)) else 0


def read(source: str | Path) -> dict[str, Any]:
    """Reads a checkpoint to resume from, onto the CPU.

    In a run folder, this is last.pt, or best.pt if last.pt is damaged or missing, with a warning.

    Raises:
        ConfigError: No such checkpoint exists, it is damaged, or it is not from a training run of this project.
    """
    folder = Path(source)
    paths = [folder / "last.pt", folder / "best.pt"] if folder.is_dir() else [folder]
    problems: list[str] = []
    for path in paths:
        if not path.is_file():
            problems.append(f"checkpoint {path} does not exist")
            continue
        try:
            content = load_file(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            print(f"warning: {problems[0]}; resuming from {path}")
        return _checked(content, path)
    raise ConfigError(f"--resume {source}: {problems[0]}")


def _checked(content: Any, path: Path) -> dict[str, Any]:
    keys = content if isinstance(content, Mapping) else ()
    if missing := [key for key in _REQUIRED_KEYS if key not in keys]:
        raise ConfigError(
            f"--resume {path} is not a checkpoint of a training run: {', '.join(missing)} missing. If it holds weights, "
            "of this or another system, use --weights"
        )
    return dict(content)


def restore(checkpoint: dict[str, Any], source: str | Path, state: State, *, counts_steps: bool = False) -> None:
    """Loads a checkpoint: weights, optimizer, schedule, loss scaler, EMA, position in the data, random number generators.

    Hyperparameters of the optimizer and the schedule are those of the configuration; the checkpoint contributes their
    state and position.

    Raises:
        ConfigError: The checkpoint does not match the model, the classes or the configuration.
    """
    if ("average" in checkpoint) != (state.ema is not None):
        raise ConfigError(f"--resume {source}: --ema-decay must stay {'above ' if 'average' in checkpoint else ''}0")
    saved = tuple(map(str, checkpoint.get("classes", ())))
    if saved and state.classes and sorted(saved) != sorted(state.classes):
        raise ConfigError(
            f"--resume {source}: it has the classes {few(saved)}, the data {few(state.classes)}; start a new run from its "
            "weights with --weights"
        )
    try:
        state.model.load_state_dict(checkpoint["model"])
        _restore_optimizer(checkpoint, state)
        if state.ema is not None:
            state.ema.load_state_dict(checkpoint["average"])
        if checkpoint.get("scaler") and state.scaler.is_enabled():
            state.scaler.load_state_dict(checkpoint["scaler"])
        if saved and state.classes:
            reorder_classes(state.model, saved, state.classes, optimizer=state.optimizer)
            if state.ema is not None:
                reorder_classes(state.ema.module, saved, state.classes)  # type: ignore[arg-type]
        _restore_position(checkpoint, state, counts_steps)
        rng_states = checkpoint["random"]
        if len(rng_states) == state.world.size:  # another number of processes changes the data order anyway
            set_rng_state(rng_states[state.world.rank])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--resume {source} does not fit this model and configuration: {_shortened(error)}"
        ) from error


def optimized_names(state: State) -> list[str]:
    """Returns the names of the parameters in the order of the optimizer's state dict."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return [names[id(p)] for group in state.optimizer.param_groups for p in group["params"]]


def _restore_optimizer(checkpoint: dict[str, Any], state: State) -> None:
    """Restores the optimizer state by parameter name, since other learning rates result in other param groups."""
    saved, own = checkpoint["optimizer"], state.optimizer.state_dict()
    names = optimized_names(state)
    lengths = [[len(group["params"]) for group in groups["param_groups"]] for groups in (saved, own)]
    order = checkpoint.get("optimized") or (names if lengths[0] == lengths[1] else None)
    if order is None:
        raise ValueError("the optimizer has different param groups")
    by_name = {order[index]: value for index, value in saved["state"].items()}
    own["state"] = {index: by_name[name] for index, name in enumerate(names) if name in by_name}
    state.optimizer.load_state_dict(own)


def _restore_position(checkpoint: dict[str, Any], state: State, counts_steps: bool) -> None:
    state.epoch, state.step, state.best = checkpoint["epoch"], checkpoint["step"], checkpoint["best"]
    state.evaluations_since_best = checkpoint.get("evaluations_since_best", 0)
    # --ignore-unlabeled and --label-unlabeled, once begun, continue when the run is extended.
    if math.isfinite(state.unlabeled_from):
        state.unlabeled_from = min(state.unlabeled_from, checkpoint.get("unlabeled_from", math.inf))
    state.batch = checkpoint.get("batch", 0)
    state.evaluated = checkpoint.get("evaluated", state.epoch)
    schedule_step = checkpoint["schedule"]["last_epoch"]
    steps = checkpoint.get("steps_per_epoch", state.steps_per_epoch)
    if checkpoint.get("images_per_step", state.images_per_step) != state.images_per_step:
        state.batch = state.batch * checkpoint["images_per_step"] // state.images_per_step  # same position in the data
    if counts_steps:  # the schedule of --iterations, which another batch size leaves as it is
        schedule_step = state.step
    elif steps != state.steps_per_epoch:
        schedule_step = round(schedule_step * state.steps_per_epoch / steps)
    state.batch = min(state.batch, state.steps_per_epoch)
    state.move_schedule(schedule_step)


def _shortened(error: Exception) -> str:
    # The first lines of an error: load_state_dict lists every parameter.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    text = " ".join(lines[:2])
    return (text if len(text) <= 300 else text[:300] + "...") + (f" ({len(lines) - 2} more)" if len(lines) > 2 else "")


def get_rng_state() -> dict[str, Any]:
    """Returns the states of all random number generators that training uses."""
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


def set_rng_state(state: dict[str, Any]) -> None:
    """Sets all random number generators to states of `get_rng_state`."""
    torch.set_rng_state(state["torch"].cpu())
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "numpy" in state:
        keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def seed_everything(seed: int) -> None:
    """Seeds the random number generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
