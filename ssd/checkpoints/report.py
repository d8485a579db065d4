"""What became of every weight of a checkpoint, and what its network expects around it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ssd.checkpoints.layouts import Layout
from ssd.models import MODELS, SSD
from ssd.models.weight_files import few
from ssd.presets import Preset, get_preset

# Rules that the weights have learned; the others (loss, thresholds) can be chosen freely afterwards.
LEARNT = ("prior_sizes", "steps", "prior_order", "clip", "variances", "mean", "std", "channels")


class WeightsError(ValueError):
    """A checkpoint does not fit the model; the message names the first weights at fault, `report` holds all."""

    report: LoadReport | None = None


@dataclass
class LoadReport:
    """What load_weights did.

    Args:
        source, system: Where the weights came from, and whose names they have.
        loaded: This project's names of the weights that were replaced.
        renamed: How many of them have another name in the checkpoint.
        missing: Weights of the model that the checkpoint lacks, with the checkpoint's name for them.
        left_over: Weights of the checkpoint that the model has no place for.
        other_shape: Weights of another shape or of whole numbers, with both shapes or dtypes.
        kept: Weights that a checkpoint of a backbone does not hold; they are as they were.
        new_heads: Last layers of the class heads, left as they were because the number of classes changed.
        new_classes: Classes that the checkpoint does not name; their rows of the class heads are left as they were.
        reordered: Whether rows of the class heads were permuted to the order of the model's class names.
        prefix: What a wrapper or framework had put before every name.
        dropped: Constants of the checkpoint that carry nothing learned, and entries without the prefix.
        num_classes: Of the checkpoint, with the background; None for a backbone.
        preset, options: The preset that fits the weights, and what of it to change; None if unknown.
        differences: Rules that the weights have learned and in which the model differs.
    """

    source: str
    system: str
    loaded: list[str] = field(default_factory=list)
    renamed: int = 0
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    other_shape: list[str] = field(default_factory=list)
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
    def faults(self) -> list[str]:
        """Lines on what does not fit, with its first names."""
        groups = (("missing", self.missing), ("left over", self.left_over), ("of another shape", self.other_shape))
        return [f"  {len(names)} {what}: {few(names)}" for what, names in groups if names]

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} weights of {self.system} loaded, {self.renamed} of them renamed"]
        lines += self.faults
        if self.prefix:
            lines.append(f"  {self.prefix!r} taken off the names")
        if self.kept:
            lines.append(f"  {len(self.kept)} are not in it and stay as they were: {few(self.kept)}")
        if self.new_heads:
            layers = dict.fromkeys(key.rpartition(".")[0] for key in self.new_heads)
            lines.append(
                f"  it has {self.num_classes} classes with the background, the model others: "
                f"the last layers of the class heads start anew: {few(layers)}"
            )
        if self.new_classes:
            lines.append(f"  classes that it does not know start anew in the class heads: {few(self.new_classes)}")
        if self.reordered:
            lines.append("  rows of the class heads reordered by the names of the classes")
        if self.dropped:
            lines.append(f"  {len(self.dropped)} constants left out: {few(self.dropped)}")
        if self.preset is not None:
            changes = "".join(f", {key}={value!r}" for key, value in self.options.items())
            lines.append(f"  trained with preset={self.preset!r}{changes}")
        if self.differences:
            lines.append(
                f"  WARNING: the model has other rules than its weights learned: {'; '.join(self.differences)}"
            )
        return "\n".join(lines)


def fitting_preset(model: SSD, layout: Layout, build_args: dict[str, Any] | None, classes: int | None) -> Preset | None:
    """The rules that a checkpoint was trained with, as far as they are known, for the family of the model."""
    if build_args is not None:
        fields = {f.name for f in dataclasses.fields(Preset)} - {"name"}
        known = {key: value for key, value in build_args.items() if key in fields}
        return Preset(name=str(build_args.get("preset")), **known)
    name = model.build_args.get("name")
    if layout.preset is None or name not in MODELS:
        return None
    return get_preset(layout.preset, MODELS[name].family, preset_options(layout, MODELS[name].family, classes))


def preset_options(layout: Layout, family: str, classes: int | None) -> dict[str, Any]:
    """What of its preset a system changes for a number of classes with the background."""
    options = dict(layout.options)
    if layout.sizes is not None and family == "vgg" and classes is not None:
        options["prior_sizes"] = layout.sizes.get(classes, layout.sizes[0])
    return options


def differences(model: Preset, learned: Preset) -> list[str]:
    """Rules that weights have learned and in which the model's preset is another, in words."""
    found = []
    for name in LEARNT:
        ours, theirs = getattr(model, name), getattr(learned, name)
        if not _same(ours, theirs):
            found.append(f"{name} {ours!r} instead of {theirs!r}")
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(math.isclose(x, y, abs_tol=1e-4) for x, y in zip(a, b, strict=True))  # means are given to few digits
    return bool(a == b)
