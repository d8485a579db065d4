"""Tests image files: EXIF orientation, bit depths, color models, suffixes, unreadable files."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps

from ssd.data import DataError, build_loader, open_dataset, read_image
from ssd.data.loading.images import image_size
from ssd.inference.sources import read
from tests.ssd.small_folders import save_image, voc_object, write_coco, write_voc
from tests.ssd.test_data_yolo import SQUARE, write_yolo


def save_turned(path, orientation=6):
    """Saves an image of 60 x 40 with a red upper left corner before EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:8, :8] = (255, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format(tmp_path, suffix, orientation):
    quadrants = np.zeros((40, 60, 3), dtype=np.uint8)
    quadrants[:20, :30], quadrants[:20, 30:], quadrants[20:, :30] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    stored, exif = Image.fromarray(quadrants), Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, **({"tiffinfo": exif} if suffix == "tif" else {"exif": exif, "quality": 95}))
    turns = stored.copy()
    turns.getexif()[0x0112] = orientation
    for apply_exif, expected in ((False, stored), (True, ImageOps.exif_transpose(turns))):
        expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1).float()
        assert image_size(path, apply_exif=apply_exif) == tuple(expected.shape[1:])
        by_size = read_image(path, size=tuple(expected.shape[1:]), either=True, apply_exif=apply_exif)
        for image in (by_size, read_image(path, apply_exif=apply_exif), read(Image.open(path), apply_exif)):
            assert (
                image.shape == expected.shape and (image[:, 5::10, 5::10] - expected[:, 5::10, 5::10]).abs().max() < 16
            )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_xmp_is_applied(tmp_path, orientation):
    """Where EXIF has none; torchvision's decoder does not read it, and half turns and flips keep the size."""
    quadrants = np.repeat(np.repeat([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255] * 3]], 24, 0), 32, 1).astype(
        np.uint8
    )
    xmp = f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'.encode()
    Image.fromarray(quadrants).save(tmp_path / "a.jpg", xmp=xmp, quality=95)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg"))
    expected = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    image = read_image(tmp_path / "a.jpg", apply_exif=True)
    assert image.shape == expected.shape and (image.int() - expected.int()).abs().max() <= 2
    assert (image.shape[1] == 64) == (orientation >= 5)


@pytest.mark.parametrize("annotated", [(40, 60), (60, 40)])
def test_orientation_follows_annotated_size(tmp_path, annotated):
    write_voc(tmp_path, {"a": [voc_object(box=(1, 1, 9, 9))], "plain": []}, size=annotated)
    save_turned(tmp_path / "JPEGImages/a.jpg")
    dataset = open_dataset("voc", tmp_path)
    image = dataset[0][0]
    turned = annotated == (40, 60)
    assert image.shape == (3, annotated[1], annotated[0]) and dataset.apply_exif == turned
    corner = image[0, :8, -8:] if turned else image[0, :8, :8]  # rotated clockwise, upper left goes to upper right
    assert corner.float().mean() > 200
    assert ("rotated upright" if turned else "read as stored") in str(dataset.summary())


@pytest.mark.parametrize(("format", "turned"), [("yolo", True), ("labelimg", False)])
def test_ambiguous_orientation_follows_other_images(tmp_path, format, turned):
    if format == "yolo":
        write_yolo(tmp_path, {"a": SQUARE, "b": SQUARE})
        save_turned(tmp_path / "images/train/a.jpg")
        save_turned(tmp_path / "images/train/b.jpg", orientation=3)
        dataset = open_dataset("yolo", tmp_path)
    else:  # shows images as they are stored, and so writes their size
        write_voc(tmp_path, {"a": [voc_object()], "b": [voc_object()]})
        save_turned(tmp_path / "JPEGImages/a.jpg")
        save_turned(tmp_path / "JPEGImages/b.jpg", orientation=3)
        dataset = open_dataset("voc", tmp_path)
    assert dataset.apply_exif == turned
    corner = dataset[1][0][0, -8:, -8:] if turned else dataset[1][0][0, :8, :8]
    assert corner.float().mean() > 200


def test_orientation_can_be_forced(tmp_path):
    write_voc(tmp_path, {"a": [voc_object()]})
    save_turned(tmp_path / "JPEGImages/a.jpg")
    with pytest.raises(DataError, match="annotated as 60 x 40, the image is 40 x 60"):
        open_dataset("voc", tmp_path, apply_exif=True)[0]
    with pytest.raises(DataError, match="apply_exif must be True, False or 'auto', got 'yes'"):
        open_dataset("voc", tmp_path, apply_exif="yes")


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
MODES = {
    "gray.png": Image.fromarray(RAMP),
    "alpha.png": Image.merge("LA", (Image.fromarray(RAMP), Image.new("L", (8, 8), 9))),
    "palette.gif": Image.fromarray(RAMP).convert("P"),
    "deep.png": Image.fromarray(RAMP.astype(np.uint16) * 256),
    "deep.tif": Image.fromarray(RAMP.astype(np.uint16) * 256),
    "unit.tif": Image.fromarray(RAMP.astype(np.float32) / 255),
    "bytes.tif": Image.fromarray(RAMP.astype(np.float32)),
    "wide.tif": Image.fromarray(RAMP.astype(np.float32) * 257),
    "rgb.jp2": Image.fromarray(RAMP).convert("RGB"),
}


@pytest.mark.parametrize("name", MODES)
def test_gray_image_modes_are_equal(tmp_path, name):
    MODES[name].save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == torch.uint8 and image.shape == (3, 8, 8)
    assert (image[1].int() - torch.from_numpy(RAMP).int()).abs().max() <= 1


def test_cmyk_and_multi_picture_images(tmp_path):
    Image.new("RGB", (16, 8), (200, 30, 40)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    red, _, blue = read_image(tmp_path / "a.jpg").float().mean((1, 2)).tolist()
    assert red > 150 > blue
    first, second = Image.new("RGB", (16, 8), (0, 200, 0)), Image.new("RGB", (16, 8))
    first.save(tmp_path / "b.mpo", save_all=True, append_images=[second])
    assert read_image(tmp_path / "b.mpo")[1].float().mean() > 150


def test_image_suffixes_are_read_or_reported(tmp_path):
    write_yolo(tmp_path, {name: SQUARE for name in "abcd"})
    folder = tmp_path / "images/train"
    (folder / "a.jpg").rename(folder / "a.jfif")
    (folder / "b.jpg").unlink()
    (folder / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (folder / "c.jpg").unlink()
    (tmp_path / "labels/train/c.txt").write_text("0 0.0 0.5 0.2 0.2 0.1 0.9")  # on the border
    dataset = open_dataset("yolo", tmp_path)
    text = str(dataset.summary())
    assert len(dataset) == 2 and dataset.num_listed == 4
    assert "b.heic: image unreadable (PIL cannot read .heic; convert it" in text and "pillow-heif" in text
    assert "c.txt: image missing (no image has the name of this label file)" in text


def test_skipped_images_are_reported_once(tmp_path):
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 20, 20]} for i in (1, 2, 3)]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in (1, 2, 3)]
    write_coco(tmp_path, boxes, images)
    (tmp_path / "images/2.jpg").write_bytes(b"")
    save_image(tmp_path / "images/3.jpg", (30, 20))
    dataset = open_dataset("coco", tmp_path)
    assert dataset.log.new_entries() == ""
    loader = build_loader(dataset, None, 1, train=False)
    assert sum(len(batch) for batch in loader) == 1
    news = dataset.log.new_entries(limit=1)
    assert "2.jpg: image unreadable (the file is empty)" in news and "and 1 more" in news
    assert dataset.log.images_skipped == 2 and dataset.num_listed == 3
    assert sum(len(batch) for batch in loader) == 1 and dataset.log.new_entries() == ""


def test_header_of_a_png_is_read_without_its_pixels(tmp_path, monkeypatch):
    save_turned(tmp_path / "a.png")
    Image.new("RGB", (60, 40)).save(tmp_path / "b.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    assert image_size(tmp_path / "a.png", apply_exif=True) == (60, 40)
    assert image_size(tmp_path / "b.png", apply_exif=True) == (40, 60)


def test_exif_after_the_pixels_of_a_png_is_applied(tmp_path):
    save_turned(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    (tmp_path / "b.png").write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    assert image_size(tmp_path / "b.png", apply_exif=True) == (60, 40)
    assert torch.equal(*(read_image(tmp_path / name, apply_exif=True) for name in ("a.png", "b.png")))


def test_image_without_permission_is_a_fault(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(DataError, match=r"^the file cannot be read: Permission denied$"):
        image_size(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS; git lfs pull"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page; download the image again"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "PIL cannot read HEIC; convert the file"),
    ],
)
def test_what_is_not_an_image_is_named(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "a.jpg")
