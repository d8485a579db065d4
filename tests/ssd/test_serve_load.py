"""A process of `ssd serve` with hundreds of clients at once: slow, disconnecting, broken and hostile ones among them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx

from benchmarks.http_load import post_request, read_answer
from tests.ssd.serving import Served, base64_of, encoded, serve_process, small_detector, write_checkpoint

pytestmark = pytest.mark.slow

CLIENTS = 240
SLOW = 30
# A window in which a burst of requests is one batch; SIGTERM comes within it.
OPTIONS = ("--no-half", "--batch-size", "64", "--batch-window-ms", "400", "--timeout", "5", "--max-waiting", "2000")


def image_of(number: int) -> np.ndarray:
    """An image unlike all others in size and content."""
    random = np.random.default_rng(number)
    colors = random.integers(0, 256, (2, 2, 3))
    return np.kron(colors, np.ones((10 + number % 20, 12 + number // 20, 1))).astype(np.uint8)


def request_of(content: bytes, **options: Any) -> bytes:
    return post_request(json.dumps({"images": [base64_of(content)], **options}).encode())


def scores_of(result: dict[str, Any]) -> list[float]:
    return [row[1] for row in result["candidates"][:8]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_process(write_checkpoint(tmp_path_factory.mktemp("run")), *OPTIONS) as process:
        yield process
    assert process.ended is not None and process.ended.returncode == 0, process.ended
    assert process.ended.stderr == ""


@pytest.fixture(scope="module")
def expected() -> list[list[float]]:
    """Highest scores of each image, computed image by image."""
    import torch

    from ssd.serve.served_model import Rules, ServedModel

    model = ServedModel("a", small_detector(), 8)
    images = [torch.from_numpy(image_of(number)).permute(2, 0, 1) for number in range(CLIENTS)]
    return [model.detect([image], [Rules(candidates=True)])[0][0].scores.tolist() for image in images]


class Clients:
    """Clients of a server, each with a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, data: bytes, *, parts: int = 1, pause: float = 0.0) -> tuple[int, bytes]:
        """Status and body of the answer to a request that is sent in parts."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        step = -(-len(data) // parts)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await asyncio.sleep(pause)
        answer = await read_answer(reader)
        writer.close()
        return answer

    async def vanish(self, data: bytes, *, abort: bool) -> None:
        """Sends data, and closes or resets the connection."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await asyncio.sleep(0.05)
        writer.transport.abort() if abort else writer.close()

    async def never_read(self, data: bytes, until: asyncio.Event) -> None:
        """Sends requests whose answers together exceed the buffers, and reads nothing."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1)
        writer.write(data * 4)
        await until.wait()
        writer.transport.abort()


def bomb(side: int) -> bytes:
    """Header of a PNG image with many pixels and little data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def hostile() -> dict[str, tuple[bytes, int]]:
    """Requests that cannot be answered, and the status of each."""
    png, jpeg = encoded(image_of(0)), encoded(image_of(1), "JPEG")
    broken = {
        "not JSON": (b"{", 422),
        "wrong type": (b'{"images": 3}', 422),
        "deep": (b"[" * 5000, 422),
        "no base64": (b'{"images": ["%%%"]}', 422),
        "no image": (json.dumps({"images": [base64_of(b"text")]}).encode(), 422),
        "half a PNG": (json.dumps({"images": [base64_of(png[:60])]}).encode(), 422),
        "half a JPEG": (json.dumps({"images": [base64_of(jpeg[:200])]}).encode(), 422),
        "bomb": (json.dumps({"images": [base64_of(bomb(60000))]}).encode(), 422),
        "unknown option": (b'{"images": ["x"], "path": "/etc/passwd"}', 422),
        "too many": (json.dumps({"images": ["x"] * 500}).encode(), 422),
        "not UTF-8": (b'{"images": ["\xff\xfe"]}', 422),
        "NaN": (b'{"images": ["x"], "score_threshold": NaN}', 422),
    }
    requests = {name: (post_request(body), status) for name, (body, status) in broken.items()}
    requests["text"] = (post_request(b"x", content_type="text/plain"), 415)
    requests["no boundary"] = (post_request(b"x", content_type="multipart/form-data"), 422)
    requests["no such page"] = (post_request(b"{}", path="/v1/../../etc/passwd"), 404)
    return requests


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def status_of(served: Served) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"http://127.0.0.1:{served.port}/health", timeout=60).json()
    return answer


def test_every_client_gets_the_response_to_its_own_image(served: Served, expected: list[list[float]]) -> None:
    """All kinds of clients at once; those that send whole images must not notice the others."""
    clients, attacks = Clients(served.port), hostile()
    contents = [encoded(image_of(number)) for number in range(CLIENTS)]
    large = post_request(json.dumps({"images": [base64_of(contents[0])] * 16, "candidates": True}).encode())
    sent = [request_of(content, candidates=True) for content in contents]
    before = descriptors(served.pid)

    async def run() -> tuple[list[Any], list[Any]]:
        done = asyncio.Event()
        deaf = [asyncio.ensure_future(clients.never_read(large, done)) for _ in range(4)]
        equal: list[Awaitable[Any]] = [
            clients.ask(data, parts=8, pause=0.1) if number < SLOW else clients.ask(data)
            for number, data in enumerate(sent)
        ]
        others: list[Awaitable[Any]] = [clients.ask(data) for data, _ in attacks.values()]
        gone = [clients.vanish(data[: len(data) // half], abort=half == 1) for data in sent[:20] for half in (1, 2)]
        answers, rejected, _ = await asyncio.gather(*(asyncio.gather(*each) for each in (equal, others, gone)))
        done.set()
        await asyncio.gather(*deaf)
        return answers, rejected

    answers, rejected = asyncio.run(run())
    assert {name: status for name, (status, _) in zip(attacks, rejected, strict=True)} == {
        name: status for name, (_, status) in attacks.items()
    }
    batches = Counter()
    for number, (status, content) in enumerate(answers):
        assert status == 200, content
        result = json.loads(content)["results"][0]
        height, width, _ = image_of(number).shape
        assert (result["width"], result["height"]) == (width, height)
        np.testing.assert_allclose(scores_of(result), expected[number], atol=2e-5)
        batches[result["batch"]] += 1
    assert max(batches) > 8
    distance = np.abs(np.array(expected)[:, None] - np.array(expected)).max(-1) + np.eye(CLIENTS)
    assert distance.min() > 1e-4, "two images have equal responses"

    end = time.monotonic() + 10  # the server learns that clients are gone
    while descriptors(served.pid) > before or status_of(served)["waiting"]:
        assert time.monotonic() < end, "connections or images are left"
        time.sleep(0.1)


def test_sigterm_completes_a_burst_in_flight(served: Served) -> None:
    count, contents = 50, [encoded(image_of(number)) for number in range(50)]

    async def run() -> list[tuple[int, bytes]]:
        clients = Clients(served.port)
        asked = [asyncio.ensure_future(clients.ask(request_of(content))) for content in contents]
        async with httpx.AsyncClient() as watcher:
            waiting = 0
            while waiting < count:
                waiting = (await watcher.get(f"http://127.0.0.1:{served.port}/health")).json()["waiting"]
        os.kill(served.pid, signal.SIGTERM)
        return await asyncio.gather(*asked)

    answers = asyncio.run(run())
    widths = [json.loads(content)["results"][0]["width"] for status, content in answers if status == 200]
    assert widths == [image_of(number).shape[1] for number in range(count)]
