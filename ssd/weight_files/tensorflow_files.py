"""Reads and writes the variables of TensorFlow networks, with kernels in PyTorch's order of dimensions.

TensorFlow's convolution kernels are `[height, width, in, out]`, its depthwise kernels `[height, width, channel,
multiplier]`.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd.common.atomic_write import write_atomically

_DEPTHWISE, _KERNEL = re.compile(r".*/depthwise_weights"), re.compile(r".*/weights")
_MAX_BYTES = 2**33  # limit for all arrays of an archive, against decompression bombs
TO_NPZ = (
    'python -c "import sys, numpy, tensorflow; r = tensorflow.train.load_checkpoint(sys.argv[1]); '
    'numpy.savez(sys.argv[2], **{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()})" model.ckpt weights.npz'
)


def read_npz(path: Path) -> dict[str, Tensor]:
    """Reads an .npz archive of weights; the kernels of TensorFlow's variables are permuted.

    Raises:
        ValueError: The file is damaged, or an array holds objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
                raise ValueError(f"its arrays have more than {_MAX_BYTES >> 30} GiB")
        with np.load(path, allow_pickle=False) as arrays:
            return from_variables({name: arrays[name] for name in arrays.files})
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an archive of arrays: {error}") from error


def write_npz(state: Mapping[str, Tensor], path: Path) -> None:
    """Writes a state dict as an .npz archive; weights with names of TensorFlow get its order of dimensions."""
    arrays: dict[str, Any] = {name: to_variable(name, value) for name, value in state.items()}
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(path, lambda file: file.write(content.getbuffer()), content.tell())


def read_tensorflow_checkpoint(index: Path) -> dict[str, Tensor]:
    """Reads the floating-point variables of a TensorFlow checkpoint from its `.index` file and the data beside it.

    Raises:
        ValueError: tensorflow is not installed, or the checkpoint is damaged.
    """
    prefix = str(index).removesuffix(".index")
    try:
        import tensorflow
    except ImportError:
        raise ValueError(
            f"{prefix} is a checkpoint of TensorFlow, which needs the package tensorflow; where that is installed, make "
            f"an .npz archive of its variables, which needs NumPy alone:\n  {TO_NPZ}"
        ) from None
    try:
        reader = tensorflow.train.load_checkpoint(prefix)
        types = reader.get_variable_to_dtype_map()
        return from_variables({name: reader.get_tensor(name) for name in sorted(types) if types[name].is_floating})
    except Exception as error:  # errors of TensorFlow have no common base class
        raise ValueError(f"{prefix} cannot be read as a checkpoint of TensorFlow: {error}") from error


def from_variables(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Returns tensors of variables, with kernels in PyTorch's order of dimensions."""
    out: dict[str, Tensor] = {}
    for name, array in variables.items():
        if array.ndim == 4 and _DEPTHWISE.fullmatch(name):
            array = array.transpose(2, 3, 0, 1).reshape(-1, 1, *array.shape[:2])
        elif array.ndim == 4 and _KERNEL.fullmatch(name):
            array = array.transpose(3, 2, 0, 1)
        out[name] = torch.from_numpy(np.array(array, order="C"))  # a copy: the source may be read-only
    return out


def to_variable(name: str, value: Tensor) -> np.ndarray:
    """Returns a weight as a variable, with a kernel in TensorFlow's order of dimensions."""
    if value.dim() == 4 and _DEPTHWISE.fullmatch(name):
        value = value.permute(2, 3, 0, 1)
    elif value.dim() == 4 and _KERNEL.fullmatch(name):
        value = value.permute(2, 3, 1, 0)
    return value.cpu().contiguous().numpy()
