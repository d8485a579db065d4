"""Loads and exports the weights of a detector under the names of any known system."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ssd.checkpoints.classes import class_rows, take_rows
from ssd.checkpoints.head_rows import HeadRows, head_rows, to_ours, to_theirs
from ssd.checkpoints.layout import Layout
from ssd.checkpoints.layouts import LAYOUTS, find_layout
from ssd.checkpoints.other_networks import other_network
from ssd.checkpoints.reading import Checkpoint, Source, read_checkpoint
from ssd.checkpoints.report import LoadReport, WeightsError, differences, fitting_preset, preset_options
from ssd.common.errors import unknown
from ssd.models import MODELS, SSD
from ssd.weight_files.load import few

_TORCHVISIONS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
_UNUSED = "N/A"  # torchvision's name of the gaps in COCO's ids
_COUNTER = "num_batches_tracked"  # missing in files of old PyTorch, and not used


def load_weights(
    model: SSD,
    source: Source,
    *,
    system: str | None = None,
    strict: bool = True,
    classes: Sequence[str] | None = None,
) -> LoadReport:
    """Loads weights of a detector, saved by any known system, into a model of this project, in place.

    Names are mapped, and the rows of the heads permuted. The classes may differ: if both sides have class names, each
    class gets the rows with its name, and classes that the checkpoint does not have keep the model's values; without
    names, the last layers of the class heads keep their values if the numbers of classes differ. The report lists them.
    The rules around the network (priors, input) belong to the preset: the report names the preset that the weights were
    trained with, and a warning lists the differences to the model's.

    Args:
        model: A model of `build_model`.
        source: A file with a state dict, alone or inside a training checkpoint, with or without prefixes such as
            "module." or "model."; a run folder; a name of torchvision such as "SSD300_VGG16_Weights.COCO_V1"; or the
            loaded mapping. Files are read with `weights_only=True`.
        system: One of LAYOUTS: "ssd" (this project), "torchvision", "amdegroot", "vgg16_reducedfc" (the backbone
            alone), "nvidia" (and WZMIAOMIAO), "qfgaohao", "lufficc", "lufficc_v1" (its names of 2018), "caffe" (Caffe's
            names), "sgrvinod", "balancap", "tensorflow" (its Object Detection API), "dusty_nv"; None detects it from the
            names, all but "dusty_nv", which has qfgaohao's.
        strict: Whether missing weights, unexpected weights and other shapes are an error; if not, what fits is loaded.
        classes: Names of the model's classes, without the background; None keeps the order of the checkpoint.

    Returns:
        A printable report on all weights.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: Weights do not fit (a ValueError); its `report` lists all of them, and none is loaded.
        ValueError: The source is not a checkpoint, or is of an unknown system.
    """
    if not isinstance(model, SSD):
        raise TypeError(f"model must be an ssd.SSD, as returned by build_model, got {type(model).__name__}")
    if next(model.parameters()).is_meta:
        raise ValueError(
            "model is on the meta device, where weights have no values; call model.to_empty(device=...) first"
        )
    checkpoint = read_checkpoint(source)
    layout = find_layout(checkpoint.state, system, checkpoint.source)
    if system is None and layout.name == "ssd" and checkpoint.build_args is None and _is_torchvisions(model):
        layout = LAYOUTS["torchvision"]
    if classes is not None and len(classes) + 1 != model.num_classes:
        raise ValueError(f"classes must name the model's {model.num_classes - 1} classes, got {len(classes)} names")
    report = LoadReport(checkpoint.source, layout.name, prefix=checkpoint.prefix)
    values = _fit(model, checkpoint, layout, report, classes)
    _check_report(model, checkpoint, values, report, strict)
    own = model.state_dict()
    with torch.no_grad():
        for key, value in values.items():
            own[key].copy_(value)
    report.loaded = list(values)
    report.renamed = sum(layout.name_of(key) != key for key in values)
    _compare_rules(model, checkpoint, layout, report)
    return report


def export_weights(model: SSD, system: str) -> dict[str, Tensor]:
    """Returns the weights of a model under the names and in the orders of another system, on the model's device.

    The program that loads them also needs the rules of the model's preset: the same priors, input and number of classes.

    Args:
        model: A model of `build_model`.
        system: One of LAYOUTS, such as "torchvision" or "amdegroot".

    Raises:
        ValueError: Unknown system, or the system does not have this network.
    """
    if system not in LAYOUTS:
        raise ValueError(unknown("system", system, LAYOUTS))
    layout = LAYOUTS[system]
    rows, order = head_rows(model), model.prior_config.order
    own = {key: value.detach() for key, value in model.state_dict().items()}
    names = {key: layout.name_of(key) for key in own}
    if not layout.backbone_only and (
        None in names.values() or (system == "torchvision" and not _is_torchvisions(model))
    ):
        raise ValueError(f"{system} has no {_name(model)}; it has {layout.holds}")
    scope = layout.scopes.get(_name(model), "")
    exported: dict[str, Tensor] = {}
    for key, name in names.items():
        if name is None or (name.endswith(_COUNTER) and "/" in name):  # TensorFlow has no such counter
            continue
        value = own[key]
        if key in rows:
            value = to_theirs(value, rows[key], layout, order)
        elif key == "backbone.scale_weight":
            value = value.reshape(layout.scale_shape)
        exported[scope + name] = value.clone()
    return exported


def _check_report(
    model: SSD, checkpoint: Checkpoint, values: dict[str, Tensor], report: LoadReport, strict: bool
) -> None:
    lines: list[str] = []
    broken = [key for key, value in values.items() if value.is_floating_point() and not value.isfinite().all()]
    if (report.problems and strict) or not values:
        fits = (
            f"in {report.system}'s layout, does not fit {_name(model)}" if values else f"no weight fits {_name(model)}"
        )
        other = other_network(checkpoint.state)
        lines = [f"{report.source}{',' if values else ':'} {fits}:", *report.problems]
        if other is not None:
            lines.append(f"  it holds {other}, a network that this project does not have")
        if values:
            lines.append("  nothing was loaded; strict=False loads what fits")
    elif broken:
        lines = [f"{report.source} holds NaN or inf in {few(broken)}; nothing was loaded"]
    if lines:
        error = WeightsError("\n".join(lines))
        error.report = report
        raise error


def _fit(
    model: SSD, checkpoint: Checkpoint, layout: Layout, report: LoadReport, classes: Sequence[str] | None
) -> dict[str, Tensor]:
    """Returns the weights that fit, with this project's names and orders; the report lists the others."""
    own, rows = model.state_dict(), head_rows(model)
    names = {key: layout.name_of(key) for key in own}
    nameless = [key for key, name in names.items() if name is None]
    if nameless and layout.backbone_only:
        report.kept = [key for key in nameless if not key.endswith(_COUNTER)]
    elif nameless:
        other = other_network(checkpoint.state)
        raise WeightsError(
            f"{checkpoint.source} holds {other}, a network that this project does not have"
            if other is not None
            else f"{checkpoint.source} has the names of {layout.name}, which supports {layout.holds}; it has no names for "
            f"these weights of {_name(model)}: {few(nameless)}"
        )
    state = {key: value for key, value in checkpoint.state.items() if not re.fullmatch(layout.dropped, key)}
    report.dropped = sorted({*checkpoint.outside, *(checkpoint.state.keys() - state.keys())})
    report.unexpected = sorted(state.keys() - set(names.values()))
    report.num_classes = _classes({key: state.get(names[key] or "") for key in rows}, rows)
    of_class = _rows_of_classes(checkpoint, classes, report)
    values: dict[str, Tensor] = {}
    for key, name in names.items():
        if name is None:
            continue
        if name not in state:
            if not key.endswith(_COUNTER):
                report.missing.append(name if name == key else f"{name} ({key})")
            continue
        value, want = state[name], own[key].shape
        if key in rows and value.dim() and value.shape[0] % rows[key].boxes == 0:
            is_head = rows[key].is_class and report.num_classes is not None and value.shape[1:] == want[1:]
            if is_head and (of_class == [] or (of_class is None and report.num_classes != model.num_classes)):
                report.new_heads.append(key)
                continue
            if value.shape == want or (is_head and of_class):
                value = to_ours(value, rows[key], layout, model.prior_config.order)
            if is_head and of_class:
                value = take_rows(value, own[key], rows[key].boxes, of_class)
        elif key == "backbone.scale_weight" and value.shape == layout.scale_shape:
            value = value.flatten()
        if value.shape != want:
            report.mismatched.append(f"{name}: {tuple(value.shape)} in the file, {tuple(want)} in the model")
            continue
        if own[key].is_floating_point() and not value.is_floating_point():
            report.mismatched.append(f"{name}: {value.dtype} in the file, {own[key].dtype} in the model")
            continue
        values[key] = value
    return values


def _rows_of_classes(
    checkpoint: Checkpoint, classes: Sequence[str] | None, report: LoadReport
) -> list[int | None] | None:
    """Returns the checkpoint's row of each class of the model; [] if it has none of them; None without names to compare."""
    saved = checkpoint.classes
    if saved is None or classes is None or report.num_classes != len(saved) + 1:
        return None
    if len(saved) == len(classes) and all(a in (b, _UNUSED) for a, b in zip(saved, classes, strict=True)):
        return None
    rows = class_rows(saved, classes)
    if not any(rows):
        report.new_classes = list(classes)
        return []
    report.new_classes = [name for name, row in zip(classes, rows[1:], strict=True) if row is None]
    report.reordered = True
    return rows


def _classes(state: dict[str, Tensor | None], rows: dict[str, HeadRows]) -> int | None:
    """Returns the number of classes, with the background, if it is the same in all class heads, else None."""
    counts: set[int | None] = set()
    for key, row in rows.items():
        if row.is_class:
            value = state[key]
            whole = value is not None and value.dim() > 0 and value.shape[0] % row.boxes == 0
            counts.add(value.shape[0] // row.boxes if value is not None and whole else None)
    return counts.pop() if len(counts) == 1 else None


def _compare_rules(model: SSD, checkpoint: Checkpoint, layout: Layout, report: LoadReport) -> None:
    learned = fitting_preset(model, layout, checkpoint.build_args, report.num_classes)
    if learned is None:
        return
    report.preset = learned.name
    if checkpoint.build_args is None:
        report.options = preset_options(layout, MODELS[model.build_args["name"]].family, report.num_classes)
    report.differences = differences(model.preset, learned)
    if report.differences:
        warnings.warn(
            f"the model differs from the preset its weights were trained with: {'; '.join(report.differences)}",
            stacklevel=3,
        )


def _is_torchvisions(model: SSD) -> bool:
    args = model.build_args
    return args.get("name") in _TORCHVISIONS and args.get("norm", "l2") == "l2"


def _name(model: SSD) -> str:
    return str(model.build_args.get("name", "the model"))
