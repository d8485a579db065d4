"""Whether torch, torchvision and the compiled ops work here, tested by running an op."""

from __future__ import annotations

import warnings
from typing import Any

from ssd.diagnosis.architectures import coverage
from ssd.diagnosis.findings import Section

_REBUILD = "pip install -e . in the source tree (or pip install --no-cache-dir --force-reinstall --no-deps ssd_ops)"


def examine(gpus: list[dict[str, str]]) -> Section:
    """Returns how the ops run on the CPU and on each GPU.

    Args:
        gpus: GPUs that the driver lists.
    """
    section = Section()
    facts = section.facts
    facts |= {"backend": None, "gpus": []}
    try:
        import torch
    except Exception as error:  # a broken installation raises anything
        section.problem(f"import torch fails: {_describe(error)}", "pip install torch torchvision")
        return section
    facts["torch"], facts["torch_cuda"] = torch.__version__, torch.version.cuda
    _try_torchvision(section)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning about the reference is reported below
            import ssd_ops
    except Exception as error:
        section.problem(f"import ssd_ops fails: {_describe(error)}", _REBUILD)
        return section
    info = ssd_ops.build_info()
    compiled = info["compiled"] or {}
    facts |= {"backend": info["backend"], "reference_because": info["reference_because"], "compiled": compiled or None}
    if info["backend"] != "compiled":
        section.problem(
            f"the ops run on their PyTorch reference, which is correct but slow: {info['reference_because']}",
            "unset SSD_OPS_BACKEND" if "SSD_OPS_BACKEND" in info["reference_because"] else _REBUILD,
        )
    _try_op(section, "cpu")
    if not torch.cuda.is_available():
        _report_unused_gpus(section, gpus, torch.version.cuda)
        return section
    for number in range(torch.cuda.device_count()):
        facts["gpus"].append(_gpu(section, number, compiled))
    return section


def _try_torchvision(section: Section) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchvision
            from torchvision.ops import nms

            section.facts["torchvision"] = torchvision.__version__
            _run_nms(nms, "cpu")
    except Exception as error:
        section.problem(
            f"torchvision does not work with this torch: {_describe(error)}",
            "install the two together: pip install --upgrade torch torchvision",
        )


def _try_op(section: Section, device: str) -> bool:
    """Runs an op; returns whether its result is correct."""
    import ssd_ops

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _run_nms(ssd_ops.nms, device)
    except Exception as error:
        section.problem(f"ssd_ops.nms fails on {device}: {_describe(error)}", _REBUILD)
        return False
    if found != [1, 2]:
        section.problem(f"ssd_ops.nms on {device} returns {found} instead of [1, 2]", _REBUILD)
    return found == [1, 2]


def _run_nms(nms: Any, device: str) -> list[int]:
    import torch

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], device=device)
    kept: list[int] = nms(boxes, torch.tensor([0.5, 0.9, 0.7], device=device), 0.5).tolist()
    return kept


def _report_unused_gpus(section: Section, gpus: list[dict[str, str]], torch_cuda: str | None) -> None:
    if not gpus:
        return
    names = ", ".join(gpu["name"] for gpu in gpus)
    remedy = "install a CUDA build of torch and torchvision (see pytorch.org), then build ssd_ops again"
    if torch_cuda is not None:
        remedy = (
            f"install a driver for CUDA {torch_cuda}, or look at CUDA_VISIBLE_DEVICES; "
            "python -c 'import torch; torch.cuda.init()' says why"
        )
    section.problem(f"torch does not see the GPU ({names})", remedy)


def _gpu(section: Section, number: int, compiled: dict[str, Any]) -> dict[str, Any]:
    import torch

    name, capability = torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)
    text = f"{capability[0]}.{capability[1]}"
    architectures = compiled.get("cuda_architectures") or []
    runs = coverage(capability, architectures)
    rebuild = f"build on this machine, with nvcc: TORCH_CUDA_ARCH_LIST={text} {_REBUILD}"
    if compiled and not architectures:
        note = compiled.get("cuda_note") or ""
        section.problem(
            f"the compiled ops have no CUDA kernels, so {name} runs on the reference. {note}".strip(), rebuild
        )
    elif compiled and runs == "none":
        section.problem(
            f"the CUDA kernels are for {', '.join(architectures)}, none of which {name} ({text}) runs", rebuild
        )
    elif runs == "PTX":
        section.hint(f"the driver compiles the kernels for {name} ({text}) when they are first used", rebuild)
    works = _try_op(section, f"cuda:{number}")
    return {"name": name, "capability": text, "runs": runs, "works": works}


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:300]}"
