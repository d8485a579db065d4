"""`ssd serve`: answers of detection requests, their options and their errors."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx

import ssd_ops
from ssd.inference.detector import Detector
from tests.ssd.serving import SCORE, base64_of, client_of, encoded, pixels, service_of, small_detector

PNG = encoded(pixels())


@pytest.fixture(scope="module")
def detector() -> Detector:
    return small_detector()


@pytest.fixture(scope="module")
def client(detector: Detector) -> Iterator[httpx.Client]:
    with client_of(service_of(detector, small_detector(2), max_pixels=1_000_000, max_images=3)) as client:
        yield client


def detect(client: httpx.Client, *images: bytes, **options: Any) -> Any:
    return client.post("/v1/detect", json={"images": [base64_of(image) for image in images], **options})


def expected(detector: Detector, image: np.ndarray, **options: Any) -> list[dict[str, Any]]:
    result: Any = detector.predict(image, **{"score_threshold": SCORE, **options})
    return result.to_dict()["detections"]


def test_json_and_multipart_give_the_detections_of_predict(client: httpx.Client, detector: Detector) -> None:
    wanted = expected(detector, pixels())
    assert wanted
    (entry,) = detect(client, PNG, score_threshold=SCORE).json()["results"]
    assert (entry["width"], entry["height"]) == (60, 40)
    assert entry["detections"] == wanted
    assert set(entry["times"]) == {"decode_ms", "queue_ms", "network_ms", "post_process_ms"} and entry["batch"] == 1
    (entry,) = client.post("/v1/detect", files=[("images", ("x", PNG))], data={"score_threshold": str(SCORE)}).json()[
        "results"
    ]
    assert entry["detections"] == wanted
    url = "data:image/png;base64," + "\n".join(re.findall(".{1,76}", base64_of(PNG)))  # lines as base64 breaks them
    answer = client.post("/v1/detect", json={"images": [url], "score_threshold": SCORE})
    assert answer.json()["results"][0]["detections"] == wanted


def test_options_select_model_classes_and_thresholds(client: httpx.Client, detector: Detector) -> None:
    (entry,) = detect(client, PNG, score_threshold=SCORE, classes=["star"]).json()["results"]
    assert entry["detections"] == expected(detector, pixels(), classes=["star"])
    answer = detect(client, PNG, score_threshold=SCORE, model="b").json()
    assert answer["model"] == "b"
    assert answer["results"][0]["detections"] == expected(small_detector(2), pixels())
    strict = small_detector()
    strict.model.preset = replace(strict.model.preset, nms_iou_threshold=0.1)
    (entry,) = detect(client, PNG, score_threshold=SCORE, nms_threshold=0.1).json()["results"]
    assert entry["detections"] == expected(strict, pixels())
    assert len(entry["detections"]) < len(expected(detector, pixels()))
    form = {"classes": ["disc", "star"], "model": "a", "score_threshold": str(SCORE)}
    (entry,) = client.post("/v1/detect", files=[("images", PNG)], data=form).json()["results"]
    assert entry["detections"] == expected(detector, pixels())


def test_candidates_after_nms_are_the_detections(client: httpx.Client, detector: Detector) -> None:
    (entry,) = detect(client, PNG, candidates=True).json()["results"]
    assert entry["candidates"]
    rows = torch.tensor(entry["candidates"])
    assert (rows[1:, 1] <= rows[:-1, 1]).all()
    rows = rows[rows[:, 1] >= SCORE]
    keep = ssd_ops.batched_nms(rows[:, 2:], rows[:, 1], rows[:, 0].long(), detector.model.preset.nms_iou_threshold)
    wanted: Any = detector.predict(pixels(), score_threshold=SCORE)
    assert len(wanted) <= len(keep) < len(rows)
    keep = keep[: len(wanted)]  # at most max_detections
    assert torch.equal(rows[keep, 0].long(), wanted.labels)
    torch.testing.assert_close(rows[keep, 2:], wanted.boxes, atol=0.01, rtol=0)


def test_images_of_all_modes_and_orientations(client: httpx.Client, detector: Detector) -> None:
    photo = Image.fromarray(pixels(3, 48, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(photo, "JPEG", exif=exif)
    gray, palette = encoded(photo.convert("L")), encoded(photo.convert("P"), "GIF")
    results = detect(client, turned, gray, palette, score_threshold=SCORE).json()["results"]
    assert [(r["width"], r["height"]) for r in results] == [(48, 80), (80, 48), (80, 48)]
    assert results[1]["detections"] == expected(detector, np.asarray(photo.convert("L")))


def test_large_images_are_detected_as_by_predict(client: httpx.Client, detector: Detector) -> None:
    large = pixels(5, 700, 900)
    (entry,) = detect(client, encoded(large), score_threshold=SCORE).json()["results"]
    assert entry["detections"] == expected(detector, large)


def test_unreadable_image_is_named_and_others_are_processed(client: httpx.Client, detector: Detector) -> None:
    answer = detect(client, PNG[:100], PNG, b"root:x:0:0", score_threshold=SCORE)
    assert answer.status_code == 200
    broken, good, text = answer.json()["results"]
    assert good["detections"] == expected(detector, pixels())
    assert "error" in broken and text == {"error": "the file is not an image that PIL can read"}
    assert detect(client, b"").status_code == 422


def png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG[:8] + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + PNG[33:]


def jpeg_header(width: int, height: int) -> bytes:
    content = bytearray(encoded(pixels(), "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_header(1001, 1000), "the image has 1001 x 1000 pixels, more than 1000000 in total"),
        (png_header(50_000, 50_000), "more than 178956970; cut it into parts"),
        (jpeg_header(9000, 9000), "the image has 9000 x 9000 pixels"),
        (jpeg_header(65_000, 65_000), "more than 178956970; cut it into parts"),
        (encoded(pixels(), "ICO"), "images in the format ICO are not accepted"),
        (encoded(pixels(), "JPEG") + b"\xff\xda" * 100, "the JPEG has 101 scans"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that PIL can read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image that PIL can read"),
    ],
    ids=["pixels", "png bomb", "jpeg pixels", "jpeg bomb", "icon", "scans", "eps", "svg"],
)
def test_hostile_image_is_rejected_before_decoding(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    if "not an image" not in message:
        monkeypatch.setattr("ssd.serve.decoding.decode_image", lambda *_, **__: pytest.fail("decoded"))
    answer = detect(client, content)
    assert answer.status_code == 422
    assert message in answer.json()["results"][0]["error"]


JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [
        (JSON, {"images": ["*"]}, 422, "the image is not valid base64"),
        (JSON, {"images": []}, 422, "images: List should have at least 1 item"),
        (JSON, {"images": ["", "", "", ""]}, 422, "images: at most 3 per request, got 4"),
        (JSON, {}, 422, "images: Field required"),
        (JSON, {"images": [""], "path": "/etc/passwd"}, 422, "path: Extra inputs are not permitted"),
        (JSON, {"images": "/etc/passwd"}, 422, "images: Input should be a valid array"),
        (JSON, {"images": [""], "model": "../a"}, 422, "unknown model '../a'. Known: a, b"),
        (JSON, {"images": [""], "classes": ["disk"]}, 422, "classes: unknown class 'disk', did you mean 'disc'?"),
        (JSON, {"images": [""], "score_threshold": 2}, 422, "score_threshold: Input should be less than or equal to 1"),
        (JSON, b'{"images": [""], "nms_threshold": NaN}', 422, "nms_threshold: Input should be"),
        (JSON, b"[" * 100_000, 422, "Invalid JSON: recursion limit exceeded"),
        (JSON, b"{", 422, "Invalid JSON"),
        (JSON, b"\xff\xfe", 422, "Invalid JSON"),
        ({"content-type": "image/jpeg"}, PNG, 415, "Content-Type must be application/json or multipart/form-data"),
        ({}, PNG, 415, "Content-Type must be"),
        ({"content-type": "multipart/form-data"}, b"--x", 422, "multipart"),
        (FORM, b"--x--", 422, "images: the request has no images"),
        (FORM, b"garbage", 422, "multipart"),
        (
            FORM,
            b'--x\r\ncontent-disposition: form-data; name="images"; filename="f"\r\n\r\n' + PNG[:99],
            422,
            "the multipart body is cut off",
        ),
        (
            FORM,
            b'--x\r\ncontent-disposition: form-data; name="images"\r\n\r\n/etc/passwd\r\n--x--\r\n',
            422,
            "-F images=@FILE",
        ),
        (
            FORM,
            b'--x\r\ncontent-disposition: form-data; name="f"; filename="f"\r\n\r\na\r\n--x--\r\n',
            422,
            "in the field",
        ),
    ],
)
def test_invalid_request_gets_one_clear_error(
    client: httpx.Client, headers: dict[str, str], body: Any, status: int, message: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = client.post("/v1/detect", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert message in answer.text and "root:" not in answer.text


def test_options_in_the_query_are_rejected_instead_of_ignored(client: httpx.Client) -> None:
    answer = client.post("/v1/detect?score_threshold=1", json={"images": [base64_of(PNG)]})
    assert answer.status_code == 422 and "not in the query, got 'score_threshold'" in answer.text


def test_head_is_answered_as_get_without_the_body(client: httpx.Client) -> None:
    for path in ("/", "/health", "/metrics", "/v1/models", "/samples/0", "/none"):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
    assert client.head("/v1/detect").status_code == 405


def test_no_path_of_the_server_is_readable(client: httpx.Client) -> None:
    for path in (
        "/etc/passwd",
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/samples/..%2f..%2fetc%2fpasswd",
        "/page.html",
    ):
        assert client.get(path).status_code in (404, 422), path
    assert client.get("/samples/-1").status_code == 404
    assert client.get("/samples/0").content[:2] == b"\xff\xd8"
    assert str(client.get("/v1/models").json()).count("/") == 0


def test_pages_load_nothing_from_elsewhere(client: httpx.Client) -> None:
    for path in ("/", "/docs"):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "http" not in policy
        assert "https://" not in answer.text and "http://www.w3.org" not in answer.text


def test_openapi_describes_the_request(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/detect"]["post"]
    content = operation["requestBody"]["content"]
    for kind in ("application/json", "multipart/form-data"):
        assert {"images", "model", "nms_threshold", "candidates"} <= set(content[kind]["schema"]["properties"])
    assert {"200", "413", "422", "503"} <= set(operation["responses"])


def test_health_and_metrics(client: httpx.Client) -> None:
    detect(client, PNG)
    detect(client, b"x")
    assert client.get("/health").json() == {"status": "ok", "models": ["a", "b"], "waiting": 0}
    client.get("/no/such/path")
    text = client.get("/metrics").text
    for line in (
        'ssd_requests_total{path="/v1/detect",status="422"}',
        'ssd_requests_total{path="other",status="404"}',
        'ssd_images_total{model="a",outcome="unreadable"}',
        'ssd_stage_seconds_bucket{le="0.001",stage="network"}',
        "ssd_waiting_images 0.0",
    ):
        assert line in text
