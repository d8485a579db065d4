"""Kernels with programmatic dependent launch call wait_for_previous_kernel() before they access memory."""

from __future__ import annotations

import re

from tests.emu.build import ROOT

# Kernels that load inputs first, which were written before the previous kernel began.
READS_INPUTS_EARLY = {"collect_logits_kernel", "collect_scores_kernel", "soft_nms_kernel"}
SOURCES = {
    path.name: path.read_text() for path in sorted((ROOT / "csrc" / "cuda").rglob("*.cu*")) if path.name != "launch.cuh"
}


def early_kernels() -> set[str]:
    """Returns the names of the kernels that launch_dependent() or launch_as() starts."""
    names: set[str] = set()
    for text in SOURCES.values():
        statements = re.findall(r"\blaunch_(?:dependent|as)\([^;]*;", text)
        names |= {name for statement in statements for name in re.findall(r"\w+_kernel\b", statement)}
        if any(re.search(r"\(kernel,|, kernel,", statement) for statement in statements):
            names |= set(re.findall(r"\w+_kernel\b", " ".join(re.findall(r"auto\* kernel =[^;]*;", text))))
    return names


def body_of(kernel: str) -> str:
    """Returns the first lines of a kernel, from its name on."""
    found = [text[match.end() :] for text in SOURCES.values() for match in re.finditer(rf" {kernel}\((?=[\w:])", text)]
    bodies = [text.partition("{")[2] for text in found if re.match(r"[^;{]*\) \{", text)]
    assert len(bodies) == 1, f"{kernel}: {len(bodies)} definitions"
    return bodies[0].partition("\n}\n")[0]


def test_every_early_kernel_waits_before_it_reads() -> None:
    names = early_kernels()
    assert {
        "select_kernel",
        "tile_kernel",
        "decide_kernel",
        "mine_kernel",
        "assign_kernel",
        "collect_logits_kernel",
    } <= names
    for name in sorted(names):
        before, waits, _ = body_of(name).partition("wait_for_previous_kernel();")
        assert waits, f"{name} never waits"
        if name in READS_INPUTS_EARLY:
            continue
        declarations = re.sub(r"//[^\n]*", "", before).split(";")
        assert all(re.match(r"\s*(using|constexpr|__shared__|$)", line) for line in declarations), (name, before)
