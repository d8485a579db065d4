"""`ssd serve`: limits on requests, hostile clients, command line and shutdown."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
import torch

from ssd.programs.serve import main, names_of, parse_args
from ssd.serve.batching import Batcher, Job
from ssd.serve.served_model import Rules, ServedModel
from tests.processes import run_python
from tests.ssd.serving import (
    SCORE,
    base64_of,
    client_of,
    encoded,
    pixels,
    running,
    service_of,
    small_detector,
    write_checkpoint,
)

ROOT = Path(__file__).resolve().parent.parent.parent
PNG = encoded(pixels())
BODY = json.dumps({"images": [base64_of(PNG)], "score_threshold": SCORE}).encode()
LIMITS = {"max_body": 100_000, "timeout": 0.5, "head_timeout": 0.5, "max_waiting": 4, "max_connections": 40}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(service_of(small_detector(), **LIMITS)) as port:
        yield port


def head(length: int | None = None, **fields: str) -> bytes:
    lines = {"host": "127.0.0.1", "content-type": "application/json", **fields}
    if length is not None:
        lines["content-length"] = str(length)
    rows = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"POST /v1/detect HTTP/1.1\r\n{rows}\r\n".encode()


def answer_to(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """All bytes that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(pause)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


def test_large_body_is_rejected_with_and_without_its_length(port: int) -> None:
    assert b" 413 " in answer_to(port, head(10**12))
    assert b" 413 " in answer_to(port, head(200_000), b"x" * 200_000)
    chunks = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert b" 413 " in answer_to(port, head(transfer_encoding="chunked"), chunks * 6, b"0\r\n\r\n")


def test_slow_head_and_slow_body_do_not_hold_a_connection(port: int) -> None:
    start = time.monotonic()
    assert answer_to(port, b"POST /v1/detect HT") == b""
    assert answer_to(port) == b""
    assert b" 408 " in answer_to(port, head(1000), b"{")
    assert time.monotonic() - start < 10


def test_idle_connection_that_sends_half_a_second_head_is_closed(port: int) -> None:
    answer = answer_to(port, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", b"GET /hea", pause=0.2)
    assert answer.count(b"HTTP/1.1") == 1 and b" 200 " in answer


def test_host_and_origin_of_other_sites_are_rejected(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/health", headers={"host": "evil.example"}).status_code == 400
    for host in ("localhost", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert httpx.get(f"{url}/health", headers={"host": host}).status_code == 200
    headers = {"sec-fetch-site": "cross-site", "content-type": "application/json"}
    assert httpx.post(f"{url}/v1/detect", content=BODY, headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 3_000_000, 431),
        (b"A" * 3_000_000, 431),
        (b"GET / HTTP/9.9\r\n\r\n" + b"a" * 3_000_000, 400),
        (b"POST /v1/detect HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
    ],
)
def test_invalid_head_is_answered_while_it_is_sent(port: int, data: bytes, status: int) -> None:
    answer = answer_to(port, data)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and b'{"detail": ' in answer


@pytest.mark.slow
def test_malformed_http_does_not_stop_the_server(port: int) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    ):
        answer = answer_to(port, data)
        assert answer == b"" or b" 400 " in answer
    assert httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ok"


def test_full_queue_and_timeout_return_errors(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    detect, blocked = ServedModel.detect, threading.Event()

    def slow(*args: Any) -> Any:
        blocked.wait(20)
        return detect(*args)

    monkeypatch.setattr(ServedModel, "detect", slow)
    statuses: list[int] = []

    def post() -> None:
        headers = {"content-type": "application/json"}
        statuses.append(httpx.post(f"http://127.0.0.1:{port}/v1/detect", content=BODY, headers=headers).status_code)

    for _ in range(10):  # on a busy machine, requests may come after the first ones have ended
        statuses.clear()
        threads = [threading.Thread(target=post) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 504 in statuses and set(statuses) <= {503, 504}
        if statuses.count(504) == 4:
            break
    assert sorted(statuses) == [503] * 4 + [504] * 4
    monkeypatch.undo()
    blocked.set()
    for _ in range(100):  # until the images whose requests ended have left the queue
        post()
        if statuses[-1] == 200:
            break
        time.sleep(0.05)
    assert statuses[-1] == 200


def test_failure_of_one_image_does_not_fail_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    detect = ServedModel.detect

    def fragile(self: ServedModel, images: Any, rules: Any) -> Any:
        if any(image.shape[1] == 7 for image in images):
            raise RuntimeError("out of memory")
        return detect(self, images, rules)

    monkeypatch.setattr(ServedModel, "detect", fragile)
    batches: list[int] = []
    model = ServedModel("a", small_detector(), 10)
    batcher = Batcher(8, 0.0, lambda jobs: batches.append(len(jobs)))
    jobs = [Job(model, Rules(), b"", torch.zeros(3, side, 9, dtype=torch.uint8)) for side in (8, 7, 9)]
    for job in jobs:
        batcher.submit(job)
    batcher.start()
    batcher.close()
    assert batches == [3] and not batcher.alive
    assert [job.future.exception() is None for job in jobs] == [True, False, True]
    late = Job(model, Rules(), b"", jobs[0].image)
    batcher.submit(late)
    assert late.future.cancelled()


def test_failed_detection_is_an_error_without_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(service_of(small_detector())) as client:
        monkeypatch.setattr(ServedModel, "detect", lambda *_: 1 / 0)
        answer = client.post("/v1/detect", content=BODY, headers={"content-type": "application/json"})
    assert answer.status_code == 500
    assert answer.json()["results"] == [{"error": "detection failed; the log of the server has the reason"}]


SHUTDOWN = """
import json, os, signal, sys, threading, time, urllib.request
from ssd.programs.serve import main
from ssd.serve.served_model import ServedModel
detect = ServedModel.detect
ServedModel.detect = lambda *args: (time.sleep(0.5), detect(*args))[1]
port, body, answers = int(sys.argv[1]), sys.argv[2].encode(), []
def post():
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/detect", body, {"content-type": "application/json"})
    answers.append(json.load(urllib.request.urlopen(request))["results"][0]["width"])
def act():
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
            break
        except OSError:
            time.sleep(0.05)
    threads = [threading.Thread(target=post) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
    for thread in threads:
        thread.join()
actor = threading.Thread(target=act, daemon=True)
actor.start()
main([sys.argv[3], "--port", str(port), "--device", "cpu"])
actor.join(10)
print("answers", answers)
"""


def test_sigterm_completes_requests_in_flight_and_exits_with_0(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run_python("-c", SHUTDOWN, str(port), BODY.decode(), str(write_checkpoint(tmp_path)), folder=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"serving {tmp_path.name} on http://127.0.0.1:{port}" in done.stdout
    assert "answers [60, 60, 60]" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/run"], "checkpoint no/such/run does not exist; torchvision's weights are"),
        ([".", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        ([".", "--timeout", "nan"], "--timeout must be above 0, got nan"),
        ([".", "--port", "99999"], "--port must be in 0..65535, got 99999"),
        ([".", "--allowed-hosts", ""], "argument --allowed-hosts: must not be empty"),
        ([".", "--allowed-hosts", "a,b*c"], "--allowed-hosts must be names such as a.example,*.b.example, got 'a,b*c'"),
        ([".", "--samples", "no/such"], "--samples no/such is not a folder"),
    ],
)
def test_serve_argument_errors_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_args(arguments)
    assert f"error: {message}" in capsys.readouterr().err


def test_missing_packages_are_named_without_importing_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import importlib.util as u; real = u.find_spec; "
        "u.find_spec = lambda name: None if name == 'uvicorn' else real(name); "
        "from ssd.programs.serve import main; main(['.'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'the server needs uvicorn: pip install "ssd_ops[serve]"' in done.stderr


def test_address_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"error: --host 127.0.0.1 --port {port}: Address already in use"):
            main([str(write_checkpoint(tmp_path)), "--port", str(port)])


def test_names_of_checkpoints_are_short_and_distinct() -> None:
    given = ["runs/a/best.pt", "runs/b/", "x.pth", "y/x.pth", "SSD300_VGG16_Weights.COCO_V1"]
    assert names_of(given) == ["a", "b", "x", "x-2", "SSD300_VGG16_Weights.COCO_V1"]
