"""Reads weights from files in protobuf format, Caffe's .caffemodel and TensorFlow's frozen graphs, with protobuf alone.

Only the fields that hold weights are described; protobuf skips all others. Arrays are read as bytes, because a packed
array has that form in the file and a list of Python numbers would take a hundred times as long.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssd.common.atomic_write import write_atomically

_CAFFE = {
    "Shape": {"dim": (1, "int64", True)},
    "Blob": {
        **{name: (number, "int32", False) for number, name in enumerate(("num", "channels", "height", "width"), 1)},
        "data": (5, "bytes", False),
        "double_data": (8, "bytes", False),
        "shape": (7, "Shape", False),
    },
    "Layer": {"name": (1, "string", False), "blobs": (7, "Blob", True)},
    "OldLayer": {"name": (4, "string", False), "blobs": (6, "Blob", True)},
    "File": {"old_layers": (2, "OldLayer", True), "layers": (100, "Layer", True)},
}
_TENSORFLOW = {
    "Dim": {"size": (1, "int64", False)},
    "Shape": {"dim": (2, "Dim", True)},
    "Tensor": {
        "dtype": (1, "int32", False),
        "shape": (2, "Shape", False),
        "content": (4, "bytes", False),
        "floats": (5, "float", True),
    },
    "Value": {"tensor": (8, "Tensor", False)},
    "Attribute": {"key": (1, "string", False), "value": (2, "Value", False)},
    "Node": {"name": (1, "string", False), "op": (2, "string", False), "attributes": (5, "Attribute", True)},
    "File": {"nodes": (1, "Node", True)},
}
_FORMATS = {"caffe": _CAFFE, "tensorflow": _TENSORFLOW}
_FLOAT_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    19: np.dtype("<f2"),
}  # numbers of TensorFlow's DataType


def read_caffemodel(path: Path) -> dict[str, np.ndarray]:
    """Reads the weights of a .caffemodel as `LAYER.weight`, `LAYER.bias`, and `LAYER.2` for a third array.

    Raises:
        ValueError: protobuf is not installed, the file is damaged, or it has no layer with weights.
    """
    file = _parsed("caffe", path)
    weights: dict[str, np.ndarray] = {}
    for layer in (*file.old_layers, *file.layers):
        for i, blob in enumerate(layer.blobs):
            part = ("weight", "bias")[i] if i < 2 else str(i)
            weights[f"{layer.name}.{part}"] = _blob(blob, f"{path}: layer {layer.name!r}")
    if not weights:
        raise ValueError(f"{path} holds no layer with weights: it is not a .caffemodel, or damaged")
    return weights


def read_frozen_graph(path: Path) -> dict[str, np.ndarray]:
    """Reads the floating-point constants of a frozen graph of TensorFlow, by name.

    Raises:
        ValueError: protobuf is not installed, the file is damaged, or it has no constant with the name of a variable.
    """
    constants = dict(_constants(_parsed("tensorflow", path), path))
    if not constants:
        raise ValueError(
            f"{path} holds no floating-point constants: it is not a frozen graph of TensorFlow, or its weights are in "
            "another file; pass the checkpoint that it was made from"
        )
    return constants


def write_caffemodel(weights: dict[str, np.ndarray], path: Path) -> None:
    """Writes arrays with names as `read_caffemodel` returns them."""
    file = _message_class("caffe")()
    for name, array in weights.items():
        layer = name.rpartition(".")[0]
        if not file.layers or file.layers[-1].name != layer:
            file.layers.add(name=layer)
        blob = file.layers[-1].blobs.add(data=np.ascontiguousarray(array, "<f4").tobytes())
        blob.shape.dim.extend(array.shape)
    content = file.SerializeToString()
    write_atomically(path, lambda part: part.write(content), len(content))


def _parsed(kind: str, path: Path) -> Any:
    file = _message_class(kind)()
    try:
        file.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError has another base class in each of its implementations
        raise ValueError(f"{path} cannot be read: it is cut off, damaged or of another kind; copy it again") from error
    return file


def _blob(blob: Any, source: str) -> np.ndarray:
    array = np.frombuffer(blob.data, "<f4") if blob.data else np.frombuffer(blob.double_data, "<f8")
    legacy = (blob.num, blob.channels, blob.height, blob.width)  # old files have these; a bias is 1 x 1 x 1 x N
    shape = tuple(blob.shape.dim) or (legacy if any(legacy[:3]) and legacy[:3] != (1, 1, 1) else legacy[3:])
    return _shaped(array, shape, source)


def _constants(file: Any, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for node in file.nodes:
        tensor = next((a.value.tensor for a in node.attributes if a.key == "value"), None)
        if node.op != "Const" or tensor is None or tensor.dtype not in _FLOAT_TYPES:
            continue
        shape, dtype = tuple(dim.size for dim in tensor.shape.dim), _FLOAT_TYPES[tensor.dtype]
        if tensor.content or not tensor.floats:
            array = np.frombuffer(tensor.content, dtype) if len(tensor.content) % dtype.itemsize == 0 else np.empty(0)
        else:
            array = np.array(tensor.floats, "<f4")
            if len(array) == 1:  # a single value for all elements
                array = np.broadcast_to(array, max(math.prod(shape), 0)) if math.prod(shape) < 2**28 else array
        yield node.name, _shaped(array, shape, f"{path}: constant {node.name!r}")


def _shaped(array: np.ndarray, shape: tuple[int, ...], source: str) -> np.ndarray:
    if any(size < 0 for size in shape) or math.prod(shape) != array.size:
        raise ValueError(f"{source} is damaged: its shape is {list(shape)}, but it holds {array.size} numbers")
    return array.reshape(shape)


@functools.cache
def _message_class(kind: str) -> Any:
    """Returns the class of a whole file, built from the tables above."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise ValueError(
            f"files of {kind.title()} in protobuf format need the package protobuf: pip install protobuf"
        ) from None
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"ssd_{kind}.proto", package=f"ssd_{kind}", syntax="proto3")
    for message_name, fields in _FORMATS[kind].items():
        message = file.message_type.add(name=message_name)
        for name, (number, type_name, repeated) in fields.items():
            label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            field = message.field.add(name=name, number=number, label=label)
            if type_name in _FORMATS[kind]:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".ssd_{kind}.{type_name}"
            else:
                field.type = getattr(field_type, f"TYPE_{type_name.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ssd_{kind}.File"))
