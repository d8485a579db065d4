"""Reads weights from Caffe's .caffemodel files, TensorFlow's frozen graphs and checkpoints, and .npz archives."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
import torch

from ssd import build_from_weights
from ssd.programs.convert import main as convert
from ssd.weight_files.load import load_file
from tests.ssd import foreign_weights as foreign


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def field(number: int, content: bytes) -> bytes:
    """Encodes a length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def numbers(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def test_read_caffemodel_bytes(tmp_path: Path) -> None:
    """Layers of both generations, shapes of both generations, and float64 data; encoded here by hand."""
    shape = field(7, field(1, varint(2) + varint(1) + varint(1) + varint(1)))
    new = field(1, b"conv") + field(7, shape + field(5, numbers(1, 2))) + field(7, field(5, numbers(3)) + b"\x20\x01")
    legacy = b"\x08\x01\x10\x01\x18\x01\x20\x02"  # 1 x 1 x 1 x 2
    old = field(4, b"norm") + field(6, legacy + field(8, struct.pack("<2d", 4, 5)))
    file = tmp_path / "net.caffemodel"
    file.write_bytes(field(1, b"a name") + field(100, new) + field(2, old))
    state = load_file(file)
    assert {name: value.tolist() for name, value in state.items()} == {
        "norm.weight": [4.0, 5.0],
        "conv.weight": [[[[1.0]]], [[[2.0]]]],
        "conv.bias": [3.0],
    }


def test_damaged_caffemodel_errors(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    file = tmp_path / "net.caffemodel"
    layer = field(1, b"conv") + field(7, field(7, field(1, varint(3))) + field(5, numbers(1, 2)))
    for content, message in (
        (b"", "holds no layer with weights"),
        (field(100, layer)[:-3], "cut off, damaged"),
        (field(100, layer), r"layer 'conv' is damaged: its shape is \[3\], but it holds 2 numbers"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"net.caffemodel.*{message}"):
            load_file(file)


def test_read_frozen_graph_bytes(tmp_path: Path) -> None:
    """Constants as bytes and as a list of numbers, a single number for all elements, and nodes that are not weights."""

    def constant(name: bytes, op: bytes, tensor: bytes) -> bytes:
        return field(1, field(1, name) + field(2, op) + field(5, field(1, b"value") + field(2, field(8, tensor))))

    two = field(2, field(2, b"\x08\x02"))
    kernel = field(2, b"".join(field(2, b"\x08" + varint(size)) for size in (1, 1, 3, 2)))
    file = tmp_path / "graph.pb"
    file.write_bytes(
        constant(b"a/weights", b"Const", b"\x08\x01" + kernel + field(4, numbers(*range(6))))
        + constant(b"a/biases", b"Const", b"\x08\x01" + two + field(5, numbers(7, 8)))
        + constant(b"b/biases", b"Const", b"\x08\x01" + two + field(5, numbers(9)))
        + constant(b"axis", b"Const", b"\x08\x03" + two + field(4, b"\x01\x00\x00\x00\x02\x00\x00\x00"))
        + constant(b"input", b"Placeholder", b"\x08\x01" + two)
    )
    state = load_file(file)
    assert state.keys() == {"a/weights", "a/biases", "b/biases"}
    assert state["a/weights"][:, :, 0, 0].tolist() == [[0, 2, 4], [1, 3, 5]]  # [out, in]
    assert state["a/biases"].tolist() == [7, 8] and state["b/biases"].tolist() == [9, 9]


def test_caffemodel_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("google.protobuf")
    torch.save(foreign.vgg("caffe", 3), tmp_path / "caffe.pth")
    for source, target in (("caffe.pth", "ssd300.caffemodel"), ("ssd300.caffemodel", "again.pth")):
        convert([str(tmp_path / source), str(tmp_path / target), "--to", "caffe"])
    assert "weights of ssd300_vgg16 with 3 classes for caffe" in capsys.readouterr().out
    expected, again = (torch.load(tmp_path / name) for name in ("caffe.pth", "again.pth"))
    assert expected.keys() == again.keys() and all(torch.equal(value, again[key]) for key, value in expected.items())
    model = build_from_weights(tmp_path / "ssd300.caffemodel")
    assert model.preset.channels == "bgr" and model.preset.name == "caffe"


def test_npz_array_that_claims_more_memory_than_there_is(tmp_path: Path) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**15},)}}".ljust(117) + "\n"
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(ValueError, match=r"w\.npz cannot be read as an archive of arrays: Unable to allocate"):
        load_file(tmp_path / "w.npz")
