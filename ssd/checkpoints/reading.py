"""Reads state dicts, alone or inside training checkpoints, without running code from the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ssd.checkpoints.layouts import LAYOUTS
from ssd.checkpoints.options import check_classes, check_thresholds, checked_build_args
from ssd.models.backbone_weights import download, torchvision_classes
from ssd.weight_files.load import load_file, state_dict_of
from ssd.weight_files.names import full_name, is_torchvision_name

# Where training scripts keep the weights; this project's EMA comes first, because it is what is evaluated.
_INSIDE = (
    *(("average", "module"), ("ema", "module")),
    *((name,) for name in ("model", "state_dict", "model_state_dict", "net", "network", "weights", "model_ema")),
)
# What wrappers insert into names: DistributedDataParallel and DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Attributes of training frameworks' modules that hold a whole detector; an EMA comes before its source.
_DETECTORS = ("ema_model", "ema", "teacher", "model", "net", "network", "detector", "ssd", "student", "online_model")
_PREFIXES = (
    *(f"{name}." for name in _DETECTORS),
    *(s for layout in LAYOUTS.values() for s in layout.scopes.values()),
)


@dataclass(frozen=True)
class Checkpoint:
    """A state dict with what this project saves beside it.

    Args:
        source: Its origin, for messages.
        state: Names to tensors, without the prefixes of wrappers.
        build_args: Arguments of `build_model`, if this project saved it.
        classes: Class names without the background, if this project saved it or torchvision names them.
        prefix: The prefix that was removed from every name.
        outside: Entries without the prefix, which are not in `state`.
        apply_exif: Whether EXIF orientation was applied to the training images, if this project saved it.
        thresholds: Class name to the score threshold for showing its detections, from the last evaluation.
    """

    source: str
    state: dict[str, Tensor]
    build_args: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    prefix: str = ""
    outside: tuple[str, ...] = ()
    apply_exif: bool | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What this project saves beside the weights and `build_args`, as values that JSON can store."""
        values = {"classes": self.classes, "apply_exif": self.apply_exif, "thresholds": dict(self.thresholds) or None}
        return {name: value for name, value in values.items() if value is not None}


Source = str | Path | Mapping[str, Any] | Checkpoint


def read_checkpoint(source: Source) -> Checkpoint:
    """Reads a checkpoint onto the CPU.

    Args:
        source: A file, a name of torchvision's weights such as "SSD300_VGG16_Weights.COCO_V1", a loaded mapping, or
            a `Checkpoint`, which is returned unchanged.

    Raises:
        FileNotFoundError: No such file.
        ConfigError: A short name of torchvision's weights belongs to several models (a ValueError).
        ValueError: The file is damaged, holds pickled objects besides tensors, no state dict, or invalid build_args.
        DownloadError: The download failed (a RuntimeError).
    """
    if isinstance(source, Checkpoint):
        return source
    words, content = _content(source)
    state: Any = content
    for path in _INSIDE:
        inner: Any = content
        for part in path:
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping):
            state = inner
            break
    about = content if state is not content else {}
    build_args, classes, exif = (about.get(key) for key in ("build_args", "classes", "apply_exif"))
    state, prefix, outside = _without_prefix(state_dict_of(state, words))
    if build_args is not None:
        build_args = checked_build_args(build_args, words)
    names = check_classes(classes, build_args, words) or torchvision_classes(words)
    thresholds = check_thresholds(about.get("thresholds"), words)
    exif = exif if isinstance(exif, bool) else None
    return Checkpoint(words, state, build_args, names, prefix, outside, exif, thresholds)


def _content(source: str | Path | Mapping[str, Any]) -> tuple[str, Any]:
    """Returns the source's name for messages, and its content."""
    if isinstance(source, Mapping):
        return "the mapping", source
    if not isinstance(source, (str, Path)):
        hint = "; pass its state_dict()" if hasattr(source, "state_dict") else ""
        raise TypeError(
            f"source must be a file, a name of torchvision's weights or a state dict, got {type(source).__name__}{hint}"
        )
    words = full_name(str(source))
    if is_torchvision_name(words):
        return words, download(words)
    path = Path(source)
    if path.is_dir():  # a run folder
        path = next((file for name in ("best.pt", "last.pt") if (file := path / name).is_file()), path)
        if path.is_dir():
            raise FileNotFoundError(f"source: the folder {words!r} holds no best.pt or last.pt")
    try:
        return str(path), load_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"source: no file {words!r}; pass a checkpoint, a run folder, a name of torchvision such as "
            "SSD300_VGG16_Weights.COCO_V1, or a state dict"
        ) from None


def _without_prefix(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """Removes the prefixes of wrappers and training frameworks from the names of a detector.

    Returns:
        The state with the remaining names, the removed prefix, and the names of entries without it.
    """
    plain = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    if len(plain) != len(state):  # names would no longer be unique
        return state, "", ()
    wrapped = next((m[0] for key in state if (m := re.search(rf"(?:{_WRAPPERS.pattern})+", key))), "")
    outside = tuple(key for key in state if key == "n_averaged" and wrapped)  # torch's AveragedModel has this counter
    plain = {key: value for key, value in plain.items() if key not in outside}
    for prefix in () if _is_detector(plain) else _PREFIXES:
        inner = {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}
        if _is_detector(inner):
            outside += tuple(key for key in plain if not key.startswith(prefix))
            return inner, wrapped + prefix, outside
    return plain, wrapped, outside


def _is_detector(names: Iterable[str]) -> bool:
    signatures = [layout.signature for layout in LAYOUTS.values() if not layout.backbone_only]
    return any(re.fullmatch(signature, name) for name in names for signature in signatures)
