"""Tests that a detector loses no image of a tar file silently."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from ssd.inference.sources import ImageFile, Unreadable, images_of

_PNG = io.BytesIO()
Image.new("RGB", (4, 4)).save(_PNG, "PNG")


def add(tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.size = len(_PNG.getvalue()) if kind == tarfile.REGTYPE else 0
    tar.addfile(member, io.BytesIO(_PNG.getvalue()))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("x/a.png", "x/b.png", "x/c.png"):
            add(tar, name)
    return tmp_path / "a.tar"


def names_and_errors(path: Path) -> tuple[list[str], list[str]]:
    items = list(images_of(path))
    files = [Path(item.file).name for item in items if isinstance(item, ImageFile)]
    return files, [item.error for item in items if isinstance(item, Unreadable)]


@pytest.mark.parametrize("size", [1024, 1500, 2048, 2100, 3072, 3073])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_tar_file_that_is_cut_off_is_an_error(archive: Path, size: int, suffix: str) -> None:
    content = archive.read_bytes()[:size]
    path = archive.with_name(f"cut{suffix}")
    path.write_bytes(gzip.compress(content) if suffix == ".tar.gz" else content)
    files, errors = names_and_errors(path)
    assert files == ["a.png", "b.png", "c.png"][: size // 1024]
    assert len(errors) == 1 and errors[0].startswith("the tar file cannot be read to its end: ")


def test_damaged_header_in_a_tar_file_is_an_error(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[1024 + 10] ^= 1
    archive.write_bytes(content)
    assert names_and_errors(archive) == (
        ["a.png"],
        ["the tar file cannot be read to its end: it is cut off or damaged after byte 1024"],
    )


def test_links_and_huge_files_in_a_tar_file_are_named_and_hidden_files_skipped(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("./._a.png", "__MACOSX/a.png", ".cache/a.png", "../a.png"):
            add(tar, name)
        add(tar, "folder.png", tarfile.DIRTYPE)
        add(tar, "soft.png", tarfile.SYMTYPE, "/etc/passwd")
        add(tar, "hard.png", tarfile.LNKTYPE, "../a.png")
        huge = tarfile.TarInfo("huge.png")
        huge.size = (1 << 30) + 512
        tar.fileobj.write(huge.tobuf())  # type: ignore[union-attr]
    files, errors = names_and_errors(tmp_path / "a.tar")
    assert files == ["a.png"] and len(errors) == 4
    assert errors[0] == errors[1] == "it is a link or a device in a tar file, which is not followed"
    assert errors[2] == "the file has 1073742336 bytes, more than 1073741824" and "to its end" in errors[3]


def test_tar_file_with_an_endless_member_ends(archive: Path) -> None:
    with tarfile.open(archive, "a") as tar:
        endless = tarfile.TarInfo("endless.bin")
        endless.size = 1 << 60
        tar.fileobj.write(endless.tobuf())  # type: ignore[union-attr]
    files, errors = names_and_errors(archive)
    assert len(files) == 3 and errors == [f"the tar file cannot be read to its end: endless.bin has {1 << 60} bytes"]


def test_tar_file_without_images_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.txt")
    assert names_and_errors(tmp_path / "a.tar") == ([], ["the tar file contains no images"])


def test_device_without_values_raises(tmp_path: Path) -> None:
    from ssd.engine.setup import choose_device
    from ssd.inference.detector import load

    with pytest.raises(ValueError, match=r"^--device meta: "):
        choose_device("meta")
    with pytest.raises(ValueError, match=r"^device 'meta': "):
        load(tmp_path, "meta")
