"""Tests which images calibrate an int8 export: training images, and none that are evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ssd.common.errors import DataError
from ssd.exporters.calibration import MAX_IMAGES, is_dataset, of_files, of_training_split
from ssd.inference.detector import load
from ssd.models import build_model
from ssd.programs import export_steps
from ssd.programs.eval import settings_of
from ssd.programs.export import main, parse_args
from tests.ssd.small_folders import voc_object, write_voc

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A data set with the splits train (a, b, c) and val (d, e)."""
    root = tmp_path / "voc"
    write_voc(root, {name: [voc_object()] for name in NAMES})
    lists = root / "ImageSets" / "Main"
    for split, names in (("train", "abc"), ("val", "de")):
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def write_run(folder: Path, **settings: object) -> Path:
    torch.manual_seed(0)
    model = build_model("ssd_tiny", 2, image_size=64, width=4, levels=2)
    folder.mkdir()
    torch.save({"build_args": model.build_args, "classes": ["cat"], "model": model.state_dict()}, folder / "best.pt")
    (folder / "config.json").write_text(json.dumps({"model": "ssd_tiny", "image_size": 64, **settings}))
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are read, without suffix."""
    from ssd.data import dataset
    from ssd.inference import sources

    names: list[str] = []
    for module, name in ((dataset, "decode_image"), (sources, "read_image")):
        original = getattr(module, name)

        def note(*arguments: object, original: object = original, **options: object) -> torch.Tensor:
            names.append(Path(str(arguments[-1])).stem)
            return original(*arguments, **options)  # type: ignore[operator]

        monkeypatch.setattr(module, name, note)
    return names


def test_calibration_uses_training_images_of_run(
    voc: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", dataset="voc", data_path=str(voc), train_split="train", val_split="val")
    monkeypatch.setattr(export_steps, "export_onnx", lambda detector, path, **options: path.write_bytes(b""))

    def quantize(source: Path, target: Path, images: object) -> int:
        target.write_bytes(b"")
        return len(list(images))  # type: ignore[call-overload]

    monkeypatch.setattr(export_steps, "quantize", quantize)
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    (voc / "JPEGImages" / "b.jpg").write_bytes(b"")
    main([str(run), str(tmp_path / "x.onnx"), "--int8", "--no-check", "--exporter", "torchscript"])
    assert read == ["a", "c"]
    out = capsys.readouterr().out
    assert "warning: 1 calibration images cannot be read and were skipped; the first: " in out and "b.jpg" in out
    assert "calibrated on 2 training images (" in out


def test_check_uses_images_of_the_run(voc: Path, tmp_path: Path, read: list[str]) -> None:
    run = write_run(tmp_path / "run", dataset="voc", data_path=str(voc), train_split="train", val_split="val")
    args, detector = parse_args([str(run), "x.pt2"]), load(run, "cpu")
    images, about = export_steps.check_images(detector, args, None, None)
    assert read == ["d", "e"] and len(images) == 8 and images[0].shape == (3, 64, 64)
    assert about.startswith("images of ") and about.endswith(" and drawn ones")
    voc.rename(tmp_path / "moved")
    assert export_steps.check_images(detector, args, None, None)[1] == "drawn images"
    args.images = str(tmp_path / "moved" / "JPEGImages" / "a.jpg")
    assert export_steps.check_images(detector, args, None, None)[1] == f"images of {args.images} and drawn ones"


def test_calibration_folder_excludes_evaluated_images(voc: Path, read: list[str]) -> None:
    config = settings_of(str(write_run(voc.parent / "run")), str(voc))
    evaluated = export_steps.open_split(config, "val")
    assert not is_dataset(str(voc / "JPEGImages")) and is_dataset(str(voc)) and is_dataset(None)
    images = list(of_files(str(voc / "JPEGImages"), 32, True, evaluated).images())
    assert read == ["a", "b", "c"] and images[0].shape == (3, 32, 32)
    assert "which is not a data set" in of_files("x", 32, True, None).about


def test_calibration_skips_unreadable_images_unless_all(voc: Path) -> None:
    folder = voc / "JPEGImages"
    for name in NAMES[1:]:
        (folder / f"{name}.jpg").write_bytes(b"x")
    calibration = of_files(str(folder), 32, True, None)
    assert len(list(calibration.images())) == 1 and len(calibration.skipped) == 4
    (folder / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"none of the images of .* can be read; the first: .*b\.jpg"):
        list(calibration.images())


def test_calibration_data_set_file_is_not_an_image(tmp_path: Path, voc: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    (tmp_path / "boxes.csv").write_text("a.jpg,1,1,2,2,cat\n")
    assert is_dataset(str(tmp_path / "data.yaml")) and is_dataset(str(tmp_path / "boxes.csv"))
    assert not is_dataset(str(voc / "JPEGImages" / "a.jpg")) and not is_dataset("*.jpg")


def test_calibration_images_are_spread_over_data_set(tmp_path: Path) -> None:
    config = settings_of(str(write_run(tmp_path / "run", dataset="shapes", dataset_options={"size": 250})))
    calibration = of_training_split(config, 32)
    images = list(calibration.images())
    assert len(images) == MAX_IMAGES and len(list(calibration.images())) == MAX_IMAGES
    assert 0 <= min(image.min().item() for image in images) < max(image.max().item() for image in images) <= 1


def test_checkpoint_without_data_set_needs_calibration_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.json").unlink()
    with pytest.raises(SystemExit):
        parse_args([str(run), "x.onnx", "--int8"])
    assert "--int8 needs --calibration-data, since" in capsys.readouterr().err
