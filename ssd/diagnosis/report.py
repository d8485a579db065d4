"""The whole diagnosis, as text and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssd.diagnosis import kernels, machine, programs
from ssd.diagnosis.findings import Finding


@dataclass(frozen=True)
class Report:
    """Facts by section, and findings with their remedies."""

    facts: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """What does not work as it should."""
        return [finding for finding in self.findings if finding.is_problem]

    def as_dict(self) -> dict[str, Any]:
        """Returns everything for JSON."""
        findings = [{"text": f.text, "remedy": f.remedy, "is_problem": f.is_problem} for f in self.findings]
        return {"well": not self.problems, **self.facts, "findings": findings}

    def __str__(self) -> str:
        lines = [*_kernel_lines(self.facts["kernels"]), *_machine_lines(self.facts["machine"])]
        lines += _program_lines(self.facts["programs"])
        for title, found in (
            ("problems", self.problems),
            ("hints", [finding for finding in self.findings if not finding.is_problem]),
        ):
            if found:
                lines += ["", f"{title}:"]
                lines += [line for finding in found for line in (f"  - {finding.text}", f"    -> {finding.remedy}")]
        lines += [] if self.problems else ["", "all is well"]
        return "\n".join(lines)


def diagnose() -> Report:
    """Runs all checks; imports torch and runs an op on each device."""
    on_machine, installed = machine.examine(), programs.examine()
    ops = kernels.examine(on_machine.facts["gpus"])
    sections = {"kernels": ops, "machine": on_machine, "programs": installed}
    facts = {name: section.facts for name, section in sections.items()}
    return Report(facts, tuple(finding for section in sections.values() for finding in section.findings))


def _kernel_lines(facts: dict[str, Any]) -> list[str]:
    compiled = facts.get("compiled") or {}
    if facts["backend"] == "compiled":
        others = ", ".join(compiled.get("isa_compiled", ()))
        lines = [f"kernels      compiled; CPU: {compiled.get('isa_chosen', 'unknown')} chosen of {others or 'unknown'}"]
    else:
        lines = [f"kernels      not compiled: {facts.get('reference_because') or 'ssd_ops cannot be imported'}"]
    if compiled:
        cuda = ", ".join(compiled["cuda_architectures"])
        by, note = f"{cuda} by nvcc {compiled['cuda']}", f"none. {compiled['cuda_note'] or ''}"
        lines.append(f"             CUDA: {by if cuda else note}".rstrip())
        for gpu in facts["gpus"]:
            works = "an op gives the correct result" if gpu["works"] else "an op gives a wrong result"
            lines.append(f"             {gpu['name']} ({gpu['capability']}) runs {gpu['runs']} of it; {works}")
        lines.append(f"             built by {compiled['compiler']} with torch {compiled['torch_built_with']}")
    return lines


def _machine_lines(facts: dict[str, Any]) -> list[str]:
    shared = facts.get("shared_memory_mib")
    lines = [
        f"machine      {facts['cores']} cores ({facts['cpu']}), {facts['memory_gib']} GiB of memory"
        + (f", /dev/shm {shared['free']} of {shared['total']} MiB free" if shared else "")
    ]
    lines += [
        f"GPU          {gpu['name']}, compute capability {gpu['capability']}, {gpu['memory']}" for gpu in facts["gpus"]
    ]
    return lines if facts["gpus"] else [*lines, "GPU          none"]


def _program_lines(facts: dict[str, Any]) -> list[str]:
    def row(title: str, names: dict[str, Any]) -> str:
        parts = [f"{name} {found or 'missing'}" for name, found in names.items()]
        return f"{title:<12} {', '.join(parts)}"

    tools = {name: facts[name] for name in ("compiler", "nvcc")}
    packages = {name: facts[name] for name in programs.REQUIRED}
    return [
        f"python       {facts['python']} on {facts['system']}",
        f"ssd_ops      {facts['ssd_ops'] or 'not installed'}, package {facts['package']}",
        row("packages", packages),
        row("optional", facts["optional"]),
        row("tools", tools),
    ]
