"""Reports which weights of a checkpoint were loaded, and the preset that they were trained with."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ssd.checkpoints.layout import Layout
from ssd.models import MODELS, SSD
from ssd.presets import Preset, get_preset
from ssd.weight_files.load import few

# Fields of a preset that weights depend on; the others (loss, thresholds) can be changed after training.
LEARNED = ("prior_sizes", "steps", "prior_order", "clip", "variances", "mean", "std", "channels", "scores")


class WeightsError(ValueError):
    """A checkpoint does not fit the model; the message names the first such weights, `report` holds all of them."""

    report: LoadReport | None = None


@dataclass
class LoadReport:
    """What `load_weights` did.

    Args:
        source: Origin of the weights.
        system: The system that their names are from.
        loaded: This project's names of the weights that were loaded.
        renamed: How many of them have another name in the checkpoint.
        missing: Weights of the model that are not in the checkpoint, by the checkpoint's name for them.
        unexpected: Weights of the checkpoint that are not in the model.
        mismatched: Weights with another shape or an integer dtype, with both shapes or dtypes.
        kept: Weights that a checkpoint of a backbone does not hold; unchanged.
        new_heads: Last layers of the class heads; unchanged because the number of classes differs.
        new_classes: Classes that the checkpoint does not have; their rows of the class heads are unchanged.
        reordered: Whether rows of the class heads were permuted to the order of the model's class names.
        prefix: The prefix of a wrapper or framework that was removed from every name.
        dropped: Constants of the checkpoint, and entries without the prefix.
        num_classes: Number of classes of the checkpoint, with the background; None for a backbone.
        preset: The preset that the weights were trained with; None if unknown.
        options: Fields of the preset to change.
        differences: Fields of the preset that the weights depend on and in which the model differs.
    """

    source: str
    system: str
    loaded: list[str] = field(default_factory=list)
    renamed: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    new_heads: list[str] = field(default_factory=list)
    new_classes: list[str] = field(default_factory=list)
    reordered: bool = False
    prefix: str = ""
    dropped: list[str] = field(default_factory=list)
    num_classes: int | None = None
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """One line per kind of weights that do not fit, with the first names."""
        groups = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.mismatched))
        return [f"  {len(names)} {what}: {few(names)}" for what, names in groups if names]

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} weights of {self.system} loaded, {self.renamed} of them renamed"]
        lines += self.problems
        if self.prefix:
            lines.append(f"  {self.prefix!r} removed from the names")
        if self.kept:
            lines.append(f"  {len(self.kept)} are not in it and keep their values: {few(self.kept)}")
        if self.new_heads:
            layers = dict.fromkeys(key.rpartition(".")[0] for key in self.new_heads)
            lines.append(
                f"  it has {self.num_classes} classes with the background, unlike the model: "
                f"the last layers of the class heads keep their values: {few(layers)}"
            )
        if self.new_classes:
            lines.append(
                f"  classes that it does not have keep their values in the class heads: {few(self.new_classes)}"
            )
        if self.reordered:
            lines.append("  rows of the class heads reordered by the names of the classes")
        if self.dropped:
            lines.append(f"  {len(self.dropped)} constants dropped: {few(self.dropped)}")
        if self.preset is not None:
            changes = "".join(f", {key}={value!r}" for key, value in self.options.items())
            lines.append(f"  trained with preset={self.preset!r}{changes}")
        if self.differences:
            lines.append(
                f"  WARNING: the model differs from the preset its weights were trained with: "
                f"{'; '.join(self.differences)}"
            )
        return "\n".join(lines)


def fitting_preset(model: SSD, layout: Layout, build_args: dict[str, Any] | None, classes: int | None) -> Preset | None:
    """Returns the preset that a checkpoint was trained with, for the family of the model; None if unknown."""
    if build_args is not None:
        fields = {f.name for f in dataclasses.fields(Preset)} - {"name"}
        known = {key: value for key, value in build_args.items() if key in fields}
        return Preset(name=str(build_args.get("preset")), **known)
    name = model.build_args.get("name")
    if layout.preset is None or name not in MODELS:
        return None
    return get_preset(layout.preset, MODELS[name].family, preset_options(layout, MODELS[name].family, classes))


def preset_options(layout: Layout, family: str, classes: int | None) -> dict[str, Any]:
    """Returns the fields that a system changes in its preset, for a number of classes with the background."""
    options = dict(layout.options)
    if layout.sizes is not None and family == "vgg" and classes is not None:
        options["prior_sizes"] = layout.sizes.get(classes, layout.sizes[0])
    return options


def differences(model: Preset, learned: Preset) -> list[str]:
    """Lists the fields that weights depend on and in which the model's preset differs."""
    out = []
    for name in LEARNED:
        ours, theirs = getattr(model, name), getattr(learned, name)
        if not _same(ours, theirs):
            out.append(f"{name} {ours!r} instead of {theirs!r}")
    return out


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(
            math.isclose(x, y, abs_tol=1e-4) for x, y in zip(a, b, strict=True)
        )  # published means have few digits
    return bool(a == b)
