"""The batch of a non-finite loss: saved when the run ends, and run again by `ssd replay`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssd.checkpoints.options import checked_build_args
from ssd.common.atomic_write import write_atomically
from ssd.common.console import how_to_run
from ssd.common.errors import DataError
from ssd.config import TrainConfig, flag_of
from ssd.config.resume_settings import plain_settings
from ssd.data import Loader
from ssd.engine.checkpoint import num_bytes
from ssd.engine.run_folder import RunFolder
from ssd.engine.step import State, amp_dtype
from ssd.models import SSD, build_model
from ssd.weight_files.load import load_file

FILE = "non_finite.pt"
_NOT_REPLAYED = ("ignore_unlabeled", "label_unlabeled", "sync_bn", "compile")  # need the EMA, all processes, minutes


def save_non_finite(
    config: TrainConfig, state: State, loader: Loader, folder: RunFolder, step: int, position: int | None
) -> str:
    """Saves the batch that ends at a position of the epoch, read again as it was, with what `ssd replay` needs.

    The weights are included if all parameters are finite: on a CPU those of the step itself, as no update followed it.

    Returns:
        Sentences about the files, for the error message; empty if position is None, on a process with finite losses.
    """
    if position is None:
        return ""
    path = folder.path / FILE

    def save() -> str:
        loader.set_epoch(state.epoch, position - 1)
        batch = next(iter(loader))
        images = batch.images if isinstance(batch.images, Tensor) else batch.images.render(std=(255.0, 255.0, 255.0))
        weights = {name: value.detach().cpu() for name, value in state.model.state_dict().items()}
        is_finite = not non_finite_names(dict(state.model.named_parameters()))
        content = {
            "images": images.cpu(),  # with --device-jpeg they are on the device
            **{name: getattr(batch, name) for name in ("gt_boxes", "gt_labels", "offsets", "ignore", "image_ids")},
            "files": [str(loader.dataset.annotations.files[loader.dataset.index_of(i)]) for i in batch.image_ids],
            "epoch": state.epoch + 1,
            "step": step,
            "rank": state.world.rank,
            "build_args": state.model.build_args,
            "settings": plain_settings(config),
            "amp_dtype": str(amp_dtype(state.model.priors.device)).removeprefix("torch.") if config.amp else None,
            "model": weights if is_finite else None,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save(content, file), num_bytes(content))
        return f"The batch is in {path}; `{how_to_run('replay')} {shlex.quote(str(path))}` runs it again. "

    return (folder.try_task(FILE, save) or "") + folder.describe_saved()


def non_finite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the tensors with NaN or inf."""
    return [name for name, value in tensors.items() if not bool(value.isfinite().all())]


def read_saved(source: str | Path) -> dict[str, Any]:
    """Reads a saved batch, given its file or the run folder.

    Raises:
        DataError: There is no such file, or it is of another kind.
    """
    path = Path(source)
    path = path / FILE if path.is_dir() else path
    try:
        content = load_file(path)
    except (ValueError, FileNotFoundError) as error:
        raise DataError(f"{error}; training writes {FILE} into its run folder when a loss is not finite") from error
    if not isinstance(content, Mapping) or "gt_boxes" not in content:
        raise DataError(f"{path} is not a batch that training saved ({FILE})")
    content = dict(content)
    last = path.with_name("last.pt")
    content["weights from"] = str(path)
    if content["model"] is None and last.is_file():
        content["model"], content["weights from"] = load_file(last)["model"], str(last)
    return content


def replay(content: Mapping[str, Any], device: torch.device) -> tuple[str, bool]:
    """Computes the losses and gradients of a saved batch as training did: in its precision and in its parts.

    Returns:
        A report, and whether everything was finite.
    """
    model = build_model(**checked_build_args(content["build_args"], FILE)).to(device).train()
    if content["model"] is not None:
        model.load_state_dict(content["model"])
    found: list[str] = []
    hooks = [module.register_forward_hook(_watch(name, found)) for name, module in model.named_modules() if name]
    packed = [content[name].to(device) for name in ("gt_boxes", "gt_labels", "offsets", "ignore")]
    loc, logits, how = _forward(model, content, device)
    losses = model.criterion(loc, logits, model.priors, *packed)
    (losses["loc"] + losses["cls"]).backward()
    losses = {name: loss.detach() for name, loss in losses.items()}
    for hook in hooks:
        hook.remove()
    lines = [
        f"batch of step {content['step']}, epoch {content['epoch']}, process {content['rank']}; weights of "
        f"{content['weights from'] if content['model'] is not None else 'a new model: none were saved'}",
        *how,
        f"loc loss {float(losses['loc']):.6g}, cls loss {float(losses['cls']):.6g}",
        *_image_lines(model, content, loc.detach(), logits.detach(), packed),
    ]
    weights = non_finite_names(dict(model.named_parameters()))
    gradients = non_finite_names({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for what, names in (("weights", weights), ("outputs", found), ("gradients", gradients)):
        if names:
            lines.append(f"{what} that are not finite: {len(names)}, first {names[0]}")
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    lines.append(
        f"gradient norm {float(norm):.6g}; largest output {max(float(t.detach().abs().max()) for t in (loc, logits)):.6g}"
    )
    return "\n".join(lines), not (weights or found or gradients or non_finite_names(losses))


def _forward(model: SSD, content: Mapping[str, Any], device: torch.device) -> tuple[Tensor, Tensor, list[str]]:
    """Returns the outputs for the whole batch, and lines about the settings that were applied and those that were not."""
    settings = content.get("settings", {})
    name = content.get("amp_dtype") or (str(amp_dtype(device)).removeprefix("torch.") if settings.get("amp") else None)
    images = model.normalize(content["images"].to(device))
    if settings.get("channels_last"):
        images = images.contiguous(memory_format=torch.channels_last)
    parts = images.tensor_split(min(settings.get("accumulate", 1), len(images)))
    with torch.autocast(device.type, getattr(torch, name or "bfloat16"), enabled=name is not None):
        outputs = [model.forward_raw(part) for part in parts]
    loc, logits = (torch.cat(tensors) for tensors in zip(*outputs, strict=True))
    how = [f"on {device} in {f'mixed precision ({name})' if name else 'float32'}"]
    how[0] += f", in {len(parts)} parts (--accumulate)" if len(parts) > 1 else ""
    if omitted := [flag_of(name) for name in _NOT_REPLAYED if settings.get(name)]:
        how.append(f"not replayed: {', '.join(omitted)}; a value that is finite here may not have been so in training")
    return loc, logits, how


def _watch(name: str, found: list[str]) -> Any:
    """Returns a forward hook that appends the name of a module with a non-finite output."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not bool(output.isfinite().all()):
            found.append(name)

    return hook


def _image_lines(
    model: SSD, content: Mapping[str, Any], loc: Tensor, logits: Tensor, packed: list[Tensor]
) -> list[str]:
    """Returns a line with the losses of each image."""
    boxes, labels, offsets, ignore = packed
    lines = []
    for i, (name, file) in enumerate(zip(content["image_ids"], content["files"], strict=True)):
        rows = slice(int(offsets[i]), int(offsets[i + 1]))
        one = (boxes[rows], labels[rows], offsets.new_tensor([0, rows.stop - rows.start]), ignore[rows])
        own = model.criterion(loc[i : i + 1], logits[i : i + 1], model.priors, *one)
        lines.append(f"  image {name} ({file}): loc loss {float(own['loc']):.6g}, cls loss {float(own['cls']):.6g}")
    return lines
