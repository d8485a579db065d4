"""`ssd predict` in several processes, stopped and continued, and on videos, tar files and lists."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssd.common.errors import DataError
from ssd.inference import video_writer
from ssd.inference.parts import Part, finished_files
from ssd.inference.video import frames_of, is_usable
from ssd.models import build_model
from ssd.programs.predict import main
from tests.processes import Ended, run_processes

COUNT = 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model("ssd_tiny", 3, image_size=64, width=4, levels=2)
    path = tmp_path_factory.mktemp("run") / "last.pt"
    torch.save({"build_args": model.build_args, "classes": ["disc", "star"], "model": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def arguments(checkpoint: Path, *sources: Path, out: Path, more: tuple[str, ...] = ()) -> list[str]:
    flags = ["--output-dir", str(out), "--device", "cpu", "--score-threshold", "0.33", "-b", "1", *more]
    return [str(checkpoint), *map(str, sources), *flags]


def predict_until_killed(argv: list[str], after: int) -> None:
    """Ends like a process that SIGKILL hits while it writes a line."""
    add = Part.add
    written: list[int] = []

    def dying(part: Part, number: int, entry: dict[str, Any]) -> None:
        if len(written) == after:
            part._file.write(b'{"number": 3, "file": "tor')
            part._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(number)
        add(part, number, entry)

    Part.add = dying  # type: ignore[assignment, method-assign]
    main(argv)


def listed(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "detections.json").read_text())
    return found


def succeeded(processes: list[Ended]) -> str:
    assert [process.code for process in processes] == [0] * len(processes), [process.err for process in processes]
    return "".join(process.out for process in processes)


def test_predict_processes_split_images_and_merge_parts(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    more = ("--save", "images,csv,coco,yolo,voc")
    main(arguments(checkpoint, photos, out=one, more=more))
    said = succeeded(run_processes(tmp_path, main, arguments(checkpoint, photos, out=two, more=more)))
    assert f"{COUNT} files are split among 2 processes" in said and said.count(f"in {COUNT} images: ") == 1
    lines = [len(path.read_text().splitlines()) for path in sorted((two / "parts").glob("*.jsonl"))]
    assert lines == [COUNT // 2, COUNT // 2] and not (one / "parts").exists()
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names == sorted(str(p.relative_to(two)) for p in two.rglob("*") if p.is_file() and p.parent.name != "parts")
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert len(names) == 4 + 3 * COUNT


@pytest.mark.slow
def test_killed_predict_resumes_without_losing_or_repeating_images(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    argv = arguments(checkpoint, photos, out=out, more=("--no-pictures",))
    ended = run_processes(tmp_path, predict_until_killed, argv, 5)
    assert [process.code for process in ended] == [-signal.SIGKILL] * 2
    before = finished_files(out)
    assert len(before) == 10 and not (out / "detections.json").exists()
    ended = run_processes(tmp_path, predict_until_killed, argv, 3)
    assert len(finished_files(out)) == 16
    said = succeeded(run_processes(tmp_path, main, argv, size=3))  # also with another number of processes
    resumed = re.search(r"resuming: (\d+) files are done", said)
    assert resumed and 16 <= int(resumed[1]) <= COUNT  # the others may have begun
    lines = [line for path in (out / "parts").glob("*.jsonl") for line in path.read_text().splitlines()]
    done = Counter(json.loads(line)["file"] for line in lines if not line.endswith("tor"))
    assert set(done.values()) == {1} and len(done) == COUNT
    main(arguments(checkpoint, photos, out=whole, more=("--no-pictures",)))
    assert listed(out) == listed(whole)


def test_predict_resumes_in_one_process(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = arguments(checkpoint, photos, out=out)
    (ended,) = run_processes(tmp_path, predict_until_killed, argv, 7, size=1)
    assert ended.code == -signal.SIGKILL and len(finished_files(out)) == 7
    with pytest.raises(SystemExit):
        main(argv)
    assert "or --resume to continue the stopped command" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"has results with tile None, not \[32, 8\]; use another --output-dir"):
        main([*argv, "--resume", "--tile", "32,8"])
    main([*argv, "--resume"])
    assert "resuming: 7 files are done" in capsys.readouterr().out
    assert [Path(entry["file"]).name for entry in listed(out)] == [f"{number:02d}.png" for number in range(COUNT)]
    assert len(list(out.glob("*.png"))) == COUNT
    with pytest.raises(SystemExit):
        main([*argv, "--resume"])
    assert "has no results of a stopped command" in capsys.readouterr().err


def test_predict_part_is_locked_by_its_process(tmp_path: Path) -> None:
    part = Part(tmp_path, 0, 2, {})
    part.close()
    code = f"import fcntl; file = open({str(part.path)!r}, 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print(); input()"
    run = [sys.executable, "-c", code]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(DataError, match=r"another process is writing .*part-00000-of-00002"):
            Part(tmp_path, 0, 2, {})
        Part(tmp_path, 1, 2, {}).close()
        other.communicate("\n")
    Part(tmp_path, 0, 2, {}).close()


def test_predict_reads_tar_files_lists_and_patterns(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for number in range(3):
                content = (photos / f"{3 * shard + number:02d}.png").read_bytes()
                for name, data in ((f"{number}.png", content), (f"{number}.json", b"{}")):
                    info = tarfile.TarInfo(f"x/{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    (tmp_path / "list.txt").write_text(f"{photos / '00.png'}\n\n0.tar\n")
    out = tmp_path / "out"
    main(arguments(checkpoint, tmp_path / "*.tar", tmp_path / "list.txt", out=out))
    found = listed(out)
    members = [str(tmp_path / f"{shard}.tar" / "x" / f"{number}.png") for shard in range(2) for number in range(3)]
    assert [entry["file"] for entry in found] == [*members, str(photos / "00.png")]
    assert found[0]["detections"] == found[6]["detections"] and found[0]["detections"]
    assert len(list(out.glob("*.png"))) == 7
    (tmp_path / "broken.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:9000])
    with pytest.raises(SystemExit, match="images could not be read"):
        main(arguments(checkpoint, tmp_path / "broken.tar", photos / "00.png", out=tmp_path / "out2"))
    assert str(photos / "00.png") in [entry["file"] for entry in listed(tmp_path / "out2")]


@pytest.mark.skipif(not is_usable("av"), reason="PyAV is not installed")
def test_predict_draws_videos_and_lists_frames(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = video_writer.VideoWriter(tmp_path / "clip.mp4")
    for number in range(6):
        writer.write(np.asarray(Image.open(photos / f"{number:02d}.png")), number / 10)
    writer.close()
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    sources = (tmp_path / "bad.mp4", tmp_path / "clip.mp4", photos / "00.png")
    with pytest.raises(SystemExit, match="1 of 3 images could not be read"):
        main(arguments(checkpoint, *sources, out=out, more=("--save", "images,csv,coco,yolo,voc")))
    assert "bad.mp4: the video cannot be opened" in capsys.readouterr().err
    found = listed(out)
    assert [(e.get("frame"), e.get("time")) for e in found] == [(n, n / 10) for n in range(6)] + [(None, None)]
    drawn = list(frames_of(out / "2-clip.mp4"))
    assert [round(f.time, 3) for f in drawn] == [n / 10 for n in range(6)] and drawn[0].image.shape == (3, 40, 60)
    rows = (out / "detections.csv").read_text().splitlines()
    assert rows[0].endswith(",ymax,frame,time") and any(row.endswith(",5,0.5") for row in rows)
    assert json.loads((out / "coco.json").read_text())["images"][5]["file_name"] == "clip-000005.jpg"
    assert (out / "yolo/labels/clip-000005.txt").exists() and (out / "voc/Annotations/clip-000005.xml").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tile", "64,64"], "--tile must be SIZE or SIZE,OVERLAP in pixels"),
        (["--tile", "x"], "--tile must be SIZE or SIZE,OVERLAP in pixels"),
        (["--resume"], "--output-dir is required with --resume"),
        (["--resume", "--overwrite"], "not allowed with argument"),
        (["gone.txt"], "list gone.txt does not exist"),
    ],
)
def test_predict_rejects_flag_combinations(
    flags: list[str], words: str, checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(checkpoint), str(photos), *flags])
    assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(checkpoint)])
    assert "give at least one source" in capsys.readouterr().err
