"""Weights of detectors from and to the systems that others use: load_weights and export_weights."""

from __future__ import annotations

import re
import warnings

import torch
from torch import Tensor

from ssd.checkpoints.layouts import LAYOUTS, Layout, find_layout
from ssd.checkpoints.networks import build_from_weights
from ssd.checkpoints.reading import Checkpoint, Source, read_checkpoint
from ssd.checkpoints.report import LoadReport, WeightsError, differences, fitting_preset, preset_options
from ssd.checkpoints.rows import HeadRows, head_rows, to_ours, to_theirs
from ssd.models import MODELS, SSD
from ssd.suggest import unknown

__all__ = ["LAYOUTS", "LoadReport", "WeightsError", "build_from_weights", "export_weights", "load_weights"]

_TORCHVISIONS = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
_COUNTER = "num_batches_tracked"  # absent from files of old PyTorch, and never read


def load_weights(model: SSD, source: Source, *, system: str | None = None, strict: bool = True) -> LoadReport:
    """Loads a detector's weights that any known system has saved, in place, into a model of this project.

    Names are translated, rows of the heads and orders of the boxes permuted. A different number of classes is no fault:
    then the last layers of the class heads stay as they are in the model, and the report says so. Rules around the
    network (priors, input) belong to the preset: the report says which one the weights were trained with, and warns
    where the model's differ.

    Args:
        model: of build_model.
        source: a file with a state dict, bare or inside a training checkpoint, with or without "module."; a name of
            torchvision such as "SSD300_VGG16_Weights.COCO_V1"; or the loaded mapping. Files are read with weights_only.
        system: one of LAYOUTS: "ssd" (this project), "torchvision", "amdegroot", "vgg16_reducedfc" (the backbone
            alone), "nvidia" (and WZMIAOMIAO), "qfgaohao", "lufficc", "caffe" (Caffe's names), "sgrvinod"; None finds it
            out by the names.
        strict: whether weights that are missing, left over or of another shape are an error; else what fits is loaded.
    Returns:
        what became of every weight; print it.
    Raises:
        FileNotFoundError: no such file.
        WeightsError (a ValueError): weights do not fit; all are listed and none is loaded.
        ValueError: the source is no checkpoint, or of an unknown system.
    """
    if not isinstance(model, SSD):
        raise TypeError(f"model must be an ssd.SSD, as build_model makes them, got {type(model).__name__}")
    checkpoint = read_checkpoint(source)
    layout = find_layout(checkpoint.state, system, checkpoint.source)
    if system is None and layout.name == "ssd" and checkpoint.build_args is None and _is_torchvisions(model):
        layout = LAYOUTS["torchvision"]
    report = LoadReport(checkpoint.source, layout.name)
    values = _fit(model, checkpoint, layout, report)
    if report.faults and strict:
        head = f"{report.source}, in {report.system}'s layout, does not fit {_name(model)}:"
        raise WeightsError("\n".join([head, *report.faults, "  nothing was loaded; strict=False loads what fits"]))
    if not values:
        raise WeightsError("\n".join([f"{report.source}: no weight fits {_name(model)}:", *report.faults]))
    broken = [key for key, value in values.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise WeightsError(f"{report.source} holds NaN or inf in {', '.join(broken)}; nothing was loaded")
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

    What loads them needs the rules of the model's preset too: the same priors, input and number of classes.

    Args:
        model: of build_model.
        system: one of LAYOUTS, such as "torchvision" or "amdegroot".
    Raises:
        ValueError: an unknown system, or one that has no such network.
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
    exported: dict[str, Tensor] = {}
    for key, name in names.items():
        if name is None:
            continue
        value = own[key]
        if key in rows:
            value = to_theirs(value, rows[key].boxes, layout, order)
        elif key == "backbone.scale_weight":
            value = value.reshape(layout.scale_shape)
        exported[name] = value.clone()
    return exported


def _fit(model: SSD, checkpoint: Checkpoint, layout: Layout, report: LoadReport) -> dict[str, Tensor]:
    """The weights that fit, by this project's names and in its orders; what does not is put into the report."""
    own, rows = model.state_dict(), head_rows(model)
    names = {key: layout.name_of(key) for key in own}
    nameless = [key for key, name in names.items() if name is None]
    if nameless and layout.backbone_only:
        report.kept = [key for key in nameless if not key.endswith(_COUNTER)]
    elif nameless:
        raise WeightsError(
            f"{checkpoint.source} has {layout.name}'s names, which hold {layout.holds}; {_name(model)} has weights that "
            f"they have no name for: {', '.join(nameless)}"
        )
    state = {key: value for key, value in checkpoint.state.items() if not re.fullmatch(layout.dropped, key)}
    report.dropped = sorted(checkpoint.state.keys() - state.keys())
    report.left_over = sorted(state.keys() - set(names.values()))
    report.num_classes = _classes({key: state.get(names[key] or "") for key in rows}, rows)
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
            if (
                rows[key].is_class
                and report.num_classes not in (None, model.num_classes)
                and value.shape[1:] == want[1:]
            ):
                report.new_heads.append(key)
                continue
            value = to_ours(value, rows[key].boxes, layout, model.prior_config.order)
        elif key == "backbone.scale_weight" and value.shape == layout.scale_shape:
            value = value.flatten()
        if value.shape != want:
            report.other_shape.append(f"{name}: {tuple(value.shape)} in the file, {tuple(want)} in the model")
            continue
        values[key] = value
    return values


def _classes(state: dict[str, Tensor | None], rows: dict[str, HeadRows]) -> int | None:
    """The number of classes with the background that all class heads of a checkpoint agree on, or None."""
    found: set[int | None] = set()
    for key, row in rows.items():
        if row.is_class:
            value = state[key]
            whole = value is not None and value.dim() > 0 and value.shape[0] % row.boxes == 0
            found.add(value.shape[0] // row.boxes if value is not None and whole else None)
    return found.pop() if len(found) == 1 else None


def _compare_rules(model: SSD, checkpoint: Checkpoint, layout: Layout, report: LoadReport) -> None:
    learnt = fitting_preset(model, layout, checkpoint.build_args, report.num_classes)
    if learnt is None:
        return
    report.preset = learnt.name
    if checkpoint.build_args is None:
        report.options = preset_options(layout, MODELS[model.build_args["name"]].family, report.num_classes)
    report.differences = differences(model.preset, learnt)
    if report.differences:
        warnings.warn(
            f"the model has other rules than its weights learnt: {'; '.join(report.differences)}", stacklevel=3
        )


def _is_torchvisions(model: SSD) -> bool:
    args = model.build_args
    return args.get("name") in _TORCHVISIONS and args.get("norm", "l2") == "l2"


def _name(model: SSD) -> str:
    return str(model.build_args.get("name", "the model"))
