"""Tests truncated, damaged, foreign and malicious weight files: one-line errors with the file and a fix."""

import zipfile

import numpy as np
import pytest
import torch

from ssd import build_from_weights, build_model, load_weights
from ssd.data.faults import DataError
from ssd.inference.detector import load
from ssd.programs.convert import main as convert
from ssd.weight_files.load import load_file

AGAIN = "copy or download it again"


@pytest.fixture(scope="module")
def tiny():
    return build_model("ssd_tiny", 3, image_size=64, width=4)


@pytest.fixture(scope="module")
def saved(tiny):
    return {"model": tiny.state_dict(), "build_args": tiny.build_args, "classes": ["a", "b"], "epoch": 1}


@pytest.fixture
def whole(saved, tmp_path):
    torch.save(saved, tmp_path / "whole.pt")
    return (tmp_path / "whole.pt").read_bytes()


def flipped(whole):
    """Flips one bit of one weight."""
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    return bytes(data)


def archive(path, name, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr(name, b"x" * 1000)
    return path.read_bytes()


DAMAGES = {
    "empty": (lambda whole, path: b"", f"it is empty .*{AGAIN}"),
    "cut off": (lambda whole, path: whole[: len(whole) // 2], f"it is cut off after .*{AGAIN}"),
    "one bit": (lambda whole, path: flipped(whole), f"it is damaged.*{AGAIN}"),
    "zeros behind": (lambda whole, path: whole[:-100] + bytes(100), AGAIN),
    "text": (lambda whole, path: b"weights", "it is not what torch.save writes"),
    "web page": (lambda whole, path: b"<!DOCTYPE html><html>", "it is a web page"),
    "Git LFS": (lambda whole, path: b"version https://git-lfs.github.com/spec/v1\noid", "it is a pointer of Git LFS"),
    "JSON": (lambda whole, path: b'{"a": 1}', "it is a JSON file"),
    "HDF5": (lambda whole, path: b"\x89HDF\r\n\x1a\n" + bytes(99), "it is an HDF5 file"),
    "gzip": (lambda whole, path: b"\x1f\x8b\x08" + bytes(99), "it is a compressed archive; unpack it first"),
    "compressed": (lambda whole, path: archive(path, "x/data.pkl", zipfile.ZIP_DEFLATED), "it is a compressed archive"),
    "TorchScript": (lambda whole, path: archive(path, "m/code/m.py"), "it is a TorchScript program"),
    "torch.export": (lambda whole, path: archive(path, "m/models/model.json"), "it is a program of torch.export"),
    "AOTInductor": (lambda whole, path: archive(path, "m/data/aotinductor/model/a.so"), "it is a compiled package"),
    "npz": (lambda whole, path: archive(path, "w.npy"), "it is an archive of NumPy arrays"),
    "legacy cut off": (lambda whole, path: b"\x80\x02\x8a\nl\xfc\x9cF", AGAIN),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_foreign_weight_file_error_names_file(damage, whole, tmp_path, tiny):
    make, words = DAMAGES[damage]
    file = tmp_path / "w.pt"
    file.write_bytes(make(whole, tmp_path / "x.zip"))
    with pytest.raises(ValueError, match=words) as error:
        load_file(file)
    text = str(error.value)
    assert text.startswith(str(file)) and "\n" not in text and len(text) < 300
    doors = [
        (ValueError, lambda: load_weights(tiny, file)),
        (ValueError, lambda: build_from_weights(str(file))),
        (ValueError, lambda: build_model("ssdlite320_mobilenet_v2", 2, weights_backbone=str(file))),
        (DataError, lambda: load(file)),
        (SystemExit, lambda: convert([str(file), str(tmp_path / "out.pth"), "--to", "ssd"])),
    ]
    for kind, door in doors:
        with pytest.raises(kind) as error:
            door()
        assert text in str(error.value)
    assert not (tmp_path / "out.pth").exists()


def test_damaged_last_checkpoint_error_names_intact_one(whole, tmp_path):
    (tmp_path / "last.pt").write_bytes(whole[:-1000])
    (tmp_path / "best.pt").write_bytes(whole)
    with pytest.raises(ValueError, match=rf"last.pt cannot be read .*; {tmp_path / 'best.pt'} beside it is intact$"):
        load_file(tmp_path / "last.pt")
    (tmp_path / "best.pt").write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match=f"{AGAIN}$"):
        load_file(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (1, torch.zeros(1), "'1' in its state dict is not a name but int"),
        ("w" * 1000, torch.zeros(1), "in its state dict is not the name of a weight: the file is damaged"),
        ("w\x00", torch.zeros(1), "in its state dict is not the name of a weight"),
        ("w", torch.zeros(1, dtype=torch.complex64), "'w' in its state dict is of torch.complex64"),
        ("w", torch.zeros(1, dtype=torch.bool), "is of torch.bool; weights are real numbers"),
        ("w", torch.zeros(1).to(torch.float8_e4m3fn), "is of torch.float8_e4m3fn"),
        ("w", torch.eye(2).to_sparse(), "is not a dense tensor but torch.sparse_coo; save its to_dense"),
        ("w", torch.zeros(1, device="meta"), "is a tensor on the meta device"),
        ("w", "text", "'w' in its state dict is not a tensor but str"),
    ],
)
def test_non_tensor_entries_of_state_dict_raise(name, value, words, tiny, saved):
    state = {**saved["model"], name: value}
    for source in (state, {"model": state}):
        with pytest.raises(ValueError, match=f"^the mapping: .*{words}"):
            load_weights(tiny, source)


def test_integer_weight_raises(tiny, saved):
    name = next(iter(saved["model"]))
    with pytest.raises(ValueError, match=f"1 of another shape: {name}: torch.int8 in the file, torch.float32 in the"):
        load_weights(tiny, {**saved["model"], name: saved["model"][name].to(torch.int8)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"weights_backbone": "VGG16_Weights.IMAGENET1K_FEATURES"},
            "hold weights_backbone, which names other weights to read",
        ),
        ({"image_size": 20000}, "image_size in its build_args must be at most 2048, got 20000"),
        ({"image_size": 2.5}, "image_size in its build_args must be an integer"),
        ({"num_classes": 10**9}, "num_classes in its build_args must be at most"),
        ({"num_classes": 50_000}, "describe ssd_tiny with .* weights, but it holds only"),
        ({"width": 1000}, "describe ssd_tiny with .* weights, but it holds only"),
        (
            {"aspect_ratios": [2.0] * 10**5},
            "aspect_ratios in its build_args must consist of numbers .* got 100000 entries",
        ),
        (
            {"aspect_ratios": [2.0] * 100, "image_size": 2000},
            "100 aspect_ratios at image_size 2000 make too many priors",
        ),
        ({"nms_iou_threshold": float("nan")}, "nms_iou_threshold in its build_args must be finite"),
        ({"preset": ["caffe"]}, r"preset in its build_args must be a name, got \['caffe'\]"),
        ({"image_size": 0}, "the mapping: its build_args make no model: image_size must be a positive number"),
        ({"preset": "x" * 1000}, "preset in its build_args must be a string of at most 100 characters"),
        ({"name": ["ssd_tiny"]}, "in its build_args is not a model of this project"),
        ({"color": 1}, "'color' in its build_args is not an option of ssd_tiny"),
    ],
)
def test_build_args_of_checkpoint_are_bounded(changes, words, saved):
    source = {"model": saved["model"], "build_args": {**saved["build_args"], **changes}}
    with pytest.raises(ValueError, match=words) as error:
        build_from_weights(source)
    assert len(str(error.value)) < 300


def test_oversized_expanded_tensor_raises(tiny, saved):
    bomb = torch.zeros(1).expand(10**12)
    for name in ("head.classification_head.module_list.0.bias", "head.regression_head.module_list.0.bias"):
        with pytest.raises(ValueError, match=r"of another shape: .*1000000000000"):
            load_weights(tiny, {"model": {**saved["model"], name: bomb}})
    bombs = {name: torch.zeros(1).expand(10**6) for name in saved["model"]}
    args = {**saved["build_args"], "width": 1000}
    with pytest.raises(ValueError, match=r"describe ssd_tiny with \d+ weights, but it holds only"):
        build_from_weights({"model": bombs, "build_args": args})


def test_long_error_lists_are_truncated(tiny):
    state = {f"{name}.x": value for name, value in tiny.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"no weight fits ssd_tiny:\n  \d+ missing: .*, \.\.\. and \d+ more\n"
    ) as error:
        load_weights(tiny, state, system="ssd")
    assert len(str(error.value)) < 1500 and len(error.value.report.unexpected) == len(state)
    state = {f"layer{i}.weight": torch.zeros(1) for i in range(300)}
    with pytest.raises(ValueError, match=r"300 unexpected: .*, \.\.\. and 295 more") as error:
        build_model("ssdlite320_mobilenet_v2", 2, weights_backbone=state_file(state))
    assert len(str(error.value)) < 1500


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def state_file(state):
    torch.save(state, "state.pth")
    return "state.pth"


def test_numpy_scalars_in_checkpoint_are_accepted(saved, tmp_path):
    torch.save({**saved, "loss": np.float64(1)}, tmp_path / "w.pt")
    assert build_from_weights(tmp_path / "w.pt").num_classes == 3
