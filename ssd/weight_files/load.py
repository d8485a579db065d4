"""Reads weight files without running code from them; if a file cannot be read, one line says why."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.common.packages import is_installed
from ssd.weight_files.protobuf_files import read_caffemodel, read_frozen_graph
from ssd.weight_files.safetensors_files import read_safetensors
from ssd.weight_files.tensorflow_files import from_variables, read_npz, read_tensorflow_checkpoint

# Safe objects that training scripts save beside weights: torchvision's command-line arguments, and NumPy scalars.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
]
# First bytes of files that are not PyTorch checkpoints, and what they are.
_FOREIGN = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself (`git lfs pull` fetches it)"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes them"),
    (rb".{8}\{\s*\"", "a safetensors file (which needs the package safetensors, and the suffix .safetensors)"),
    (rb"\s*<(!|html|head|\?xml)", "a web page or XML, not a download of the weights"),
    (rb"\s*[{\[]\s*[\"{\[]", "a JSON file"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf", "a compressed archive; unpack it first"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89PNG|\xff\xd8\xff", "an image"),
    (rb"\x08[\x01-\x0f][\x12\x1a\x3a:].", "an ONNX file"),
)
_IN_ZIP = (
    (r".*/code/.*", "a TorchScript program; save the state_dict() of its module instead"),
    (r".*(serialized_exported_program\.json|models/.*\.json)", "a program of torch.export, not weights"),
    (r".*/aotinductor/.*", "a compiled package of AOTInductor, not weights"),
    (r".*\.npy", "an archive of NumPy arrays, which needs the suffix .npz"),
)
_MAX_NAME = 200
_SIBLINGS = {"last.pt": "best.pt", "best.pt": "last.pt"}
# Suffix -> reader of a file that torch.save did not write; safetensors is read below.
_READERS: dict[str, Callable[[Path], Mapping[str, Tensor]]] = {
    ".caffemodel": lambda path: from_variables(read_caffemodel(path)),
    ".npz": read_npz,
    ".pb": lambda path: from_variables(read_frozen_graph(path)),
    ".index": read_tensorflow_checkpoint,
}
FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def load_file(path: str | Path) -> Any:
    """Reads a file of torch.save, safetensors, Caffe, TensorFlow or NumPy to the CPU; chosen by the suffix.

    Pickled objects besides tensors, numbers and strings are rejected, and the checksums of the file are verified. A
    checkpoint of TensorFlow is named by its prefix, such as "model.ckpt", or by its .index file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is truncated, damaged or of another kind; the message says what to do.
    """
    path = checkpoint_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        return _load(path)
    except ValueError as error:
        sibling = path.with_name(_SIBLINGS.get(path.name, path.name))
        if sibling == path or not sibling.is_file():
            raise
        try:
            _load(sibling)
        except ValueError:
            raise error from None
        raise ValueError(f"{error}; {sibling} beside it is intact") from error


def checkpoint_file(path: str | Path) -> Path:
    """Returns the file of a checkpoint: the .index file of a TensorFlow checkpoint that is named by its prefix."""
    path = Path(path)
    index = Path(re.sub(r"\.data-\d+-of-\d+$", "", str(path)) + ".index")
    return index if index.is_file() else path


def state_dict_of(content: Any, source: str) -> dict[str, Tensor]:
    """Checks that `content` is a state dict, names to dense numeric tensors, and returns it.

    Raises:
        ValueError: It is not; the message names the first invalid entry.
    """
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        held = f"a mapping with {_shown(content)}" if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{source} must hold a state dict (names to tensors), alone or as 'model', got {held}")
    for name, value in content.items():
        if problem := _problem_of(name, value):
            raise ValueError(f"{source}: {str(name)[:80]!r} in its state dict {problem}")
    return dict(content)


def _problem_of(name: Any, value: Any) -> str | None:
    if not isinstance(name, str):
        return f"is not a name but {type(name).__name__}; a state dict maps names to tensors"
    if len(name) > _MAX_NAME or not name.isprintable():
        return "is not the name of a weight: the file is damaged"
    if not isinstance(value, Tensor):
        return f"is not a tensor but {type(value).__name__}"
    if value.layout != torch.strided or value.is_nested:
        return f"is not a dense tensor but {value.layout}; save its to_dense()"
    if value.is_meta:
        return "is a tensor on the meta device, which has no values; save a model that was loaded"
    if value.is_quantized or value.dtype not in (*FLOATING, *_WHOLE):
        return f"is of {value.dtype}; weights are real numbers: save it as float32"
    return None


def few(names: Iterable[str]) -> str:
    """Returns the first five names and the number of further ones."""
    names = list(names)
    return ", ".join(names[:5]) + (f", ... and {len(names) - 5} more" if len(names) > 5 else "")


def _shown(content: Mapping[Any, Any]) -> str:
    names = [str(key)[:40] for key in list(content)[:8]]
    return (", ".join(names) + (", ..." if len(content) > 8 else "")) or "nothing in it"


def _load(path: Path) -> Any:
    if path.suffix in _READERS:
        return _READERS[path.suffix](path)
    try:
        if path.suffix == ".safetensors" and is_installed("safetensors"):
            return read_safetensors(path)
        if zipfile.is_zipfile(path):
            _check_zip(path)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _Damaged as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error
    except Exception as error:  # torch.load raises nearly anything on a file that is not a checkpoint
        pickled = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if pickled is None:
            raise ValueError(f"{path} cannot be read as a checkpoint: {_reason(path, error)}") from error
        raise ValueError(
            f"{path} is not a checkpoint of tensors alone: it holds pickled {_escaped(pickled[1])}, and loading that runs "
            "code that the file names (sgrvinod's checkpoints hold their whole module). If you trust it, save its "
            "weights again where its own code can be imported:\n"
            f"  c = torch.load({str(path)!r}, weights_only=False)  # runs code from the file\n"
            "  torch.save((c['model'] if isinstance(c, dict) else c).state_dict(), 'weights.pth')"
        ) from error


def _escaped(text: str) -> str:
    return text[:100].encode("unicode_escape").decode()


class _Damaged(Exception):
    """An archive is damaged; the message says how."""


def _check_zip(path: Path) -> None:
    """Verifies the checksum of every entry, which torch.load does not; a flipped bit would be a wrong weight."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for pattern, what in _IN_ZIP:
            if any(re.fullmatch(pattern, entry.filename) for entry in entries):
                raise _Damaged(f"it is {what}")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise _Damaged("it is a compressed archive, which torch.save never writes; unpack it first")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise _Damaged("its entries have more bytes than the file")
        try:
            broken = archive.testzip()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise _Damaged(f"it is damaged ({error}); copy or download it again") from error
    if broken is not None:
        raise _Damaged(f"it is damaged: the checksum of {broken} is wrong; copy or download it again")


def _reason(path: Path, error: Exception) -> str:
    """Returns why a file cannot be read, from its first bytes, or else from torch's error."""
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "it is empty (0 bytes); copy or download it again"
    if path.suffix == ".safetensors" and is_installed("safetensors"):
        return "it is cut off, damaged or not a safetensors file; copy or download it again"
    for pattern, what in _FOREIGN:
        if re.match(pattern, start, re.DOTALL):
            return f"it is {what}"
    if start.startswith(b"PK\x03\x04"):
        return f"it is cut off after {path.stat().st_size} bytes or damaged; copy or download it again"
    if start.startswith(b"\x80"):  # a pickle, as PyTorch wrote before 1.6
        return "it is cut off, damaged, or not a PyTorch checkpoint; copy or download it again"
    return "it is not what torch.save writes"
