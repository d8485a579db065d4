"""Loading of the compiled library, and information about its build."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

HOME = Path(__file__).parent
LIBRARY = HOME / "libssd_ops.so"
BUILD_INFO = HOME / "_build_info.json"  # installed with the library
SCHEMAS = HOME / "schemas.def"
REASON = HOME / "_not_built.txt"  # written by setup.py when it could not compile
REBUILD = "pip install -e . in the source tree (or pip install ssd_ops again) builds it"

_reference_because: str | None = None


def load_library() -> bool:
    """Loads libssd_ops.so, which registers the ops with torch, and returns whether it did.

    If not, the ops are still to be registered from the reference: because `SSD_OPS_BACKEND=reference` is set in the
    environment, or else with a warning that names the reason.

    Raises:
        ImportError: `SSD_OPS_REQUIRE=1` is set and there is no library that loads.
        ValueError: `SSD_OPS_BACKEND` is neither `auto` nor `reference`.
    """
    global _reference_because
    backend = os.environ.get("SSD_OPS_BACKEND") or "auto"
    if backend not in ("auto", "reference"):
        raise ValueError(f"SSD_OPS_BACKEND must be auto or reference, got {backend!r}")
    if backend == "reference":
        _reference_because = "SSD_OPS_BACKEND=reference is set"
        return False
    _reference_because = _load()
    if _reference_because is None:
        return True
    if os.environ.get("SSD_OPS_REQUIRE") == "1":
        raise ImportError(f"SSD_OPS_REQUIRE=1 is set, and ssd_ops has no compiled library: {_reference_because}")
    warnings.warn(
        f"ssd_ops runs on its PyTorch reference, which is correct but slow, because its compiled library is missing: "
        f"{_reference_because}",
        RuntimeWarning,
        stacklevel=3,  # the line that imports ssd_ops
    )
    return False


def _load() -> str | None:
    """Loads the library; returns the reason if that fails, else None."""
    if not LIBRARY.exists():
        return REASON.read_text().strip() if REASON.exists() else f"It has not been built. {REBUILD}."
    info = _compiled_info()
    if info is not None and info["schemas_sha256"] != hashlib.sha256(SCHEMAS.read_bytes()).hexdigest():
        return f"{LIBRARY.name} was built from other sources than these Python files. {REBUILD}."
    try:
        torch.ops.load_library(str(LIBRARY))
    except (OSError, RuntimeError) as error:
        cause = str(error.__cause__ or error)
        return f"{LIBRARY.name} does not load under torch {torch.__version__}: {cause}. {REBUILD}."
    return None


@cache
def warn_of_reference(device: str) -> None:
    """Warns, once for each type of device, that a compiled library has no kernels for it and the reference runs."""
    if _reference_because is not None:
        return  # requested, or already reported when ssd_ops was imported
    text = (
        f"ssd_ops runs {device} tensors on its PyTorch reference, which is correct but slow, because it has no {device} "
        "kernels."
    )
    if device == "cuda":
        note = (_compiled_info() or {}).get("cuda_note")
        text += (
            f" It was compiled without them{f': {note}' if note else '.'} SSD_OPS_CUDA=1 pip install -e . builds them."
        )
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _compiled_info() -> dict[str, Any] | None:
    """Returns what the library was built from and with, or None if none was built."""
    if not BUILD_INFO.exists():
        return None
    info: dict[str, Any] = json.loads(BUILD_INFO.read_text(encoding="utf-8"))
    return info


def build_info() -> dict[str, Any]:
    """Returns which backend runs and what was compiled, for bug reports and benchmarks.

    Keys that are always present: `backend` ("compiled" or "reference"), `reference_because` (None or the reason), `torch`
    and `python` (the versions running). `compiled` is None if no library was built, else a dict: `version`, `compiler`,
    `torch_built_with`, `torch_at_least`, `cuda` (version of nvcc, None for a CPU build), `cuda_architectures` (as CMake
    writes them: `90-real` is machine code, `120-virtual` is PTX), `cuda_note` (why there are no CUDA kernels),
    `isa_compiled` (CPU instruction sets), `isa_chosen` (None if the library was not loaded) and `schemas_sha256`.
    """
    compiled, loaded = _compiled_info(), _reference_because is None
    if compiled is not None:
        compiled["isa_chosen"] = compiled["isa_compiled"][torch.ops.ssd_ops._isa()] if loaded else None
    return {
        "backend": "compiled" if loaded else "reference",
        "reference_because": _reference_because,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "compiled": compiled,
    }
