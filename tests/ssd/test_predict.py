"""Detection with a trained model: files in, images and detections.json out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssd import build_model, export_weights
from ssd.data import DataError
from ssd.inference.detector import Detector, load
from ssd.programs.predict import main
from ssd.programs.predict_arguments import list_sources

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of ssd/train.py, with an untrained model that has some confident boxes."""
    torch.manual_seed(1)
    model = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    average = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    folder = tmp_path_factory.mktemp("run")
    checkpoint = {"build_args": model.build_args, "classes": ["disc", "star"], "model": model.state_dict()}
    torch.save(checkpoint, folder / "last.pt")
    torch.save({**checkpoint, "average": {"module": average.state_dict(), "updates": 1}}, folder / "best.pt")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for i, name in enumerate(("a.png", "b.jpg", "more/a.png")):
        pixels = torch.randint(0, 256, (40 + 10 * i, 60, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / name)
    return folder


def test_predict_uses_best_checkpoint_and_ema_weights(run_folder: Path) -> None:
    mean = torch.load(run_folder / "best.pt", weights_only=True)["average"]["module"]
    detector = load(run_folder)
    assert detector.classes == ("disc", "star") and not detector.model.training
    assert all(torch.equal(value, mean[name]) for name, value in detector.model.state_dict().items())
    last = torch.load(run_folder / "last.pt", weights_only=True)["model"]
    detector = load(run_folder / "last.pt")
    assert all(torch.equal(value, last[name]) for name, value in detector.model.state_dict().items())


def test_predict_equals_model(run_folder: Path, photos: Path) -> None:
    detector = load(run_folder, dtype=torch.float32)
    files = sorted(photos.rglob("*.*"))
    in_batches = list(detector.stream(files, score_threshold=0.336, batch_size=2))
    one_by_one = [next(detector.stream([file], score_threshold=0.336)) for file in files]
    assert sum(len(found.scores) for found in in_batches) > 0
    for found, alone in zip(in_batches, one_by_one, strict=True):
        assert torch.equal(found.labels, alone.labels)
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=0, atol=1e-3)  # convolutions of other batch sizes
        assert found.image is not None
        height, width = found.image.shape[1:]
        limit = torch.tensor([width, height, width, height])
        assert (found.boxes >= 0).all() and (found.boxes <= limit).all() and (found.scores >= 0.336).all()


def test_predict_with_soft_nms_lets_scores_decay(run_folder: Path, photos: Path, tmp_path: Path) -> None:
    found = []
    for flags in ([], ["--soft-nms"], ["--soft-nms", "0.01"]):
        out = tmp_path / f"out{len(found)}"
        given = [*flags, "--score-threshold", "0.3", "--device", "cpu", "--output-dir", str(out)]
        main([str(run_folder), str(photos / "a.png"), *given])
        (entry,) = json.loads((out / "detections.json").read_text())
        found.append(entry["detections"])
    hard, soft, strict = map(len, found)
    assert hard > 0 and hard != soft > strict  # a smaller sigma lets scores decay more
    with pytest.raises(SystemExit, match="--soft-nms: soft_nms_sigma must be a positive number"):
        main([str(run_folder), str(photos / "a.png"), "--soft-nms", "0", "--output-dir", str(tmp_path / "none")])


@pytest.mark.parametrize("flag", ["--tta", "--tta-border"])
def test_predict_with_tta_averages_over_a_flip(run_folder: Path, tmp_path: Path, flag: str) -> None:
    pixels = torch.randint(0, 256, (3, 40, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name, image in (("a.png", pixels), ("b.png", pixels.flip(-1))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
    flags = [flag, "--score-threshold", "0.336", "--device", "cpu", "--output-dir", str(tmp_path / "out")]
    main([str(run_folder), str(tmp_path / "a.png"), str(tmp_path / "b.png"), *flags])
    one, two = json.loads((tmp_path / "out" / "detections.json").read_text())
    scores = [[row["score"] for row in image["detections"]] for image in (one, two)]
    assert scores[0] and scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_predict_folder_writes_images_and_json(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xffnot an image")
    out = tmp_path / "out"
    (photos / "notes.txt").touch()
    Image.new("RGB", (60, 40)).save(photos / ("n" * 251 + ".png"))
    flags = ["--output-dir", str(out), "--score-threshold", "0.336", "--device", "cpu"]
    with pytest.raises(SystemExit, match="2 of 6 images could not be read or written"):
        main([str(run_folder), str(photos), "gone.jpg", *flags])
    said = capsys.readouterr()
    assert "broken.jpg: " in said.err and "gone.jpg: the file does not exist" in said.err
    assert "5 images and videos; skipped 1 files of other types" in said.out
    entries = json.loads((out / "detections.json").read_text())
    assert [Path(entry["file"]).name[:9] for entry in entries] == ["a.png", "b.jpg", "n" * 9, "a.png"]
    assert len({entry["picture"] for entry in entries}) == 4
    assert [Path(entry["picture"]).suffix for entry in entries] == [".png", ".jpg", ".png", ".png"]
    for entry in entries:
        with Image.open(out / entry["picture"]) as drawing:
            assert drawing.size == (entry["width"], entry["height"])
        assert all(d["label"] in ("disc", "star") and len(d["box"]) == 4 for d in entry["detections"])
    assert any(entry["detections"] for entry in entries)


def test_predict_output_folder_is_new_unless_overwrite(
    run_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for expected in ("predictions", "predictions-2"):
        main([str(run_folder), str(photos / "a.png"), "--device", "cpu"])
        assert sorted(p.name for p in (tmp_path / expected).iterdir()) == ["1-a.png", "detections.json"]
    again = [str(run_folder), str(photos / "b.jpg"), "--device", "cpu", "--output-dir", "predictions"]
    with pytest.raises(SystemExit):
        main(again)
    assert "--output-dir predictions is not empty" in capsys.readouterr().err
    (tmp_path / "predictions" / "of-the-user.txt").touch()
    main([*again, "--overwrite"])
    assert sorted(p.name for p in (tmp_path / "predictions").iterdir()) == [
        *("1-b.jpg", "detections.json", "of-the-user.txt"),
    ]


def test_predict_keeps_results_before_an_error(
    run_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Detector.stream

    def ending(*args: object, **kwargs: object) -> object:
        yield next(whole(*args, **kwargs))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, "stream", ending)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main([str(run_folder), str(photos), "--device", "cpu", "--output-dir", str(tmp_path / "out"), "--no-pictures"])
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 1


@pytest.mark.parametrize(("kept", "size"), [(None, (40, 60)), (True, (40, 60)), (False, (60, 40))])
def test_predict_orients_images_like_training(
    kept: bool | None, size: tuple[int, int], run_folder: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    checkpoint = torch.load(run_folder / "last.pt", weights_only=True)
    torch.save(checkpoint | ({} if kept is None else {"apply_exif": kept}), tmp_path / "last.pt")
    (found,) = load(tmp_path / "last.pt").stream([tmp_path / "a.jpg"])
    assert found.image is not None and (found.image.shape[2], found.image.shape[1]) == size


def test_predict_uses_best_score_thresholds(run_folder: Path, photos: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(run_folder / "last.pt", weights_only=True)
    torch.save({**checkpoint, "thresholds": {"disc": 0.0, "star": 1.0}}, tmp_path / "last.pt")
    detector = load(tmp_path)
    (found,) = detector.stream([photos / "a.png"])
    assert len(found.labels) and set(found.labels.tolist()) == {1}
    assert detector.score_thresholds() == [0.0, 1.0] and detector.score_thresholds(0.3) == [0.3, 0.3]
    assert load(run_folder).score_thresholds() == [0.4, 0.4]
    torch.save({**checkpoint, "thresholds": {"disc": "high"}}, tmp_path / "last.pt")
    with pytest.raises(DataError, match=r"thresholds in 0 \.\. 1 by class"):
        load(tmp_path)


def test_torchvision_weights_set_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    state = export_weights(build_model("ssdlite320_mobilenet_v3_large", 91, reduced_tail=True), "torchvision")
    monkeypatch.setattr("ssd.checkpoints.reading.download", lambda name: state)
    detector = load("SSDLite320_MobileNet_V3_Large_Weights.COCO_V1")
    assert len(detector.classes) == 90 and detector.classes[:2] == ("person", "bicycle")


@pytest.mark.parametrize(
    ("content", "words"),
    [({"state_dict": {}}, "must hold a state dict"), (None, "cannot be read as a checkpoint")],
)
def test_predict_rejects_file_without_weights(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "foreign.pt"
    if content is None:
        path.write_bytes(b"text")
    else:
        torch.save(content, path)
    with pytest.raises(DataError, match=words):
        load(path)
    with pytest.raises(DataError, match=r"holds no best\.pt or last\.pt"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "x.jpg"], "checkpoint nowhere does not exist"),
        ([".", "nowhere.jpg"], "image nowhere.jpg does not exist"),
        ([".", "n" * 300 + ".jpg"], "does not exist"),
        ([".", "README.md", "--output-dir", "README.md"], "--output-dir must be a folder, got the file README.md"),
        ([".", "requirements.txt"], "list requirements.txt does not exist"),
        ([".", "tests/ops"], "contains no images"),
        ([".", "README.md", "--score-threshold", "2"], "--score-threshold must be in 0..1, got 2"),
        ([".", "README.md", "-b", "0"], "--batch-size must be at least 1, got 0"),
    ],
)
def test_predict_argument_errors_do_not_import_torch(arguments: list[str], words: str) -> None:
    code = "import sys; sys.modules['torch'] = None; from ssd.programs.predict import main; main(sys.argv[1:])"
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_list_of_missing_images_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone.png\n")
    with pytest.raises(DataError, match=r"list .*list\.txt: .*gone\.png does not exist"):
        list_sources([str(tmp_path / "list.txt")])


def test_drawings_of_an_earlier_command_are_no_sources(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = list_sources([str(photos)])
    capsys.readouterr()
    found = photos / "predictions"  # as the default folder is, if the command runs in the folder of the images
    found.mkdir()
    (found / "1-a.png").write_bytes(b"")
    (found / "detections.json").write_text('[{"file": "a.png", "detections": [], "picture": "1-a.png"}, {"file": "b"}]')
    for source in (photos, photos / "**" / "*"):
        assert sorted(list_sources([str(source)])) == sorted(sources)
        assert f"{source}: without 1 images and videos that an earlier command drew" in capsys.readouterr().out
    assert list_sources([str(found / "1-a.png")]) == [str(found / "1-a.png")]
    (found / "detections.json").write_text("{}")  # of another program
    assert len(list_sources([str(photos)])) == len(sources) + 1


def test_predict_with_checkpoint_of_another_system(tmp_path: Path, photos: Path) -> None:
    theirs = build_model("ssdlite320_mobilenet_v2", 4, preset="lufficc", layout="lufficc")
    torch.save({"model": export_weights(theirs, "lufficc"), "iteration": 9}, tmp_path / "model_000009.pth")
    detector = load(tmp_path / "model_000009.pth")
    assert detector.classes == ("1", "2", "3") and detector.model.preset.name == "lufficc"
    assert detector.model.preset.max_detections == 100
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in detector.model.state_dict().items())
