"""The page of `ssd serve` in a headless Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("websockets")

import httpx

import ssd_ops
from tests.ssd import chromium
from tests.ssd.serving import base64_of, encoded, pixels, running, service_of, small_detector

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="Chromium is not installed")
COUNT = "+document.querySelector('#panel-{}').dataset.count"
PICTURE = "document.querySelector('#panel-a canvas').toDataURL()"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(service_of(small_detector(), small_detector(2))) as port:
        yield port


@pytest.fixture(scope="module")
def page(port: int) -> Iterator[chromium.Page]:
    with chromium.opened(f"http://127.0.0.1:{port}/") as page:
        page.wait_for("document.body?.dataset.state === 'ready'")
        yield page


def count(page: chromium.Page, panel: str = "a") -> int:
    return int(page.evaluate(COUNT.format(panel)))


def detections(port: int, image: bytes, **options: Any) -> int:
    body = {"images": [base64_of(image)], **options}
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/detect", json=body, timeout=60).json()
    return len(answer["results"][0]["detections"])


def set_slider(page: chromium.Page, name: str, value: float) -> None:
    script = f"document.getElementById('{name}').value = {value}; document.getElementById('{name}').oninput()"
    page.evaluate(script)


def test_page_updates_boxes_after_drop_and_slider(page: chromium.Page, port: int, tmp_path: Path) -> None:
    sample = page.evaluate(PICTURE)
    image = encoded(pixels(0, 160, 240))
    (tmp_path / "dropped.png").write_bytes(image)
    page.drop("#drop", tmp_path / "dropped.png")
    page.wait_for(f"document.body.dataset.state === 'ready' && {PICTURE} !== {sample!r}")
    assert page.evaluate("document.querySelector('#panel-a').dataset.size") == "240x160"
    assert count(page) == detections(port, image) and count(page, "b") == detections(port, image, model="b")

    sent = len(page.requests)
    none = page.evaluate(PICTURE)
    page.click("#score", 0.3)  # the track of the slider
    page.wait_for(f"{PICTURE} !== {none!r}")
    assert not page.evaluate("document.querySelector('#auto').checked")
    set_slider(page, "score", 0.3)
    set_slider(page, "nms", 0.45)
    many, drawn = count(page), page.evaluate(PICTURE)
    assert many == detections(port, image, score_threshold=0.3, nms_threshold=0.45) > 0
    set_slider(page, "nms", 0.1)
    assert 0 < count(page) < many and page.evaluate(PICTURE) != drawn
    assert count(page) == detections(port, image, score_threshold=0.3, nms_threshold=0.1)
    of_class = count(page)
    page.click("#classes button:first-child")
    assert 0 < count(page) < of_class
    page.click("#classes button:first-child")
    assert len(page.requests) == sent, "a slider or filter sent a request"
    if folder := os.environ.get("SSD_SCREENSHOTS"):
        page.screenshot(Path(folder) / "ssd-serve.png")


def test_soft_nms_of_the_page_is_that_of_the_op(page: chromium.Page) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 20 + 60 * torch.rand(60, 2, generator=generator)], dim=1)
    scores = torch.zeros(60, 3).scatter(
        1, torch.tensor([1, 2]).repeat(30)[:, None], torch.rand(60, 1, generator=generator)
    )
    wanted = ssd_ops.soft_nms(boxes[None], scores[None], sigma=0.3, score_threshold=0.05, max_detections=20)
    rows = torch.cat([scores[:, 1:].argmax(1, keepdim=True) + 1, scores.amax(1, keepdim=True), boxes], dim=1)
    rows = rows[rows[:, 1].argsort(descending=True)]
    found = torch.tensor(page.evaluate(f"softNms({rows.tolist()}, 0.3, 0.05, 20)"))
    assert len(found) == wanted.counts[0] == 20
    assert torch.equal(found[:, 0].long(), wanted.labels[0])
    torch.testing.assert_close(found[:, 1], wanted.scores[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, 2:], wanted.boxes[0])


def test_page_lists_times_and_boxes_of_both_checkpoints(page: chromium.Page) -> None:
    set_slider(page, "score", 0.3)
    for panel in "ab":
        times = page.evaluate(f"document.querySelector('#panel-{panel} .times').textContent")
        assert all(stage in times for stage in ("decode", "queue", "network", "post-process", "NMS", "request"))
        assert page.evaluate(f"document.querySelectorAll('#panel-{panel} tbody tr').length") == min(
            count(page, panel), 100
        )


def test_page_reports_unreadable_file(page: chromium.Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image <b>at all</b>")
    page.drop("#drop", tmp_path / "notes.txt")
    page.wait_for("!document.getElementById('error').hidden")
    assert "not an image that PIL can read" in page.evaluate("document.getElementById('error').textContent")
    page.click("#samples button:first-child")
    page.wait_for("document.getElementById('error').hidden && document.body.dataset.state === 'ready'")
    assert len(page.faults) == 1 and "status of 422" in page.faults[0]


def test_page_sends_requests_to_its_server_only(page: chromium.Page, port: int) -> None:
    page.call("Page.navigate", url=f"http://127.0.0.1:{port}/docs")
    page.wait_for("document.querySelectorAll('section').length >= 4")
    assert "POST /v1/detect" in page.evaluate("document.body.textContent")
    own = (f"http://127.0.0.1:{port}/", "blob:", "data:")
    assert page.requests and all(url.startswith(own) for url in page.requests), page.requests
