"""HTTP clients for load on a server: one connection each, all on one event loop, with little overhead per request."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """Answer to one request.

    Attributes:
        request: Index of the request.
        status: HTTP status.
        seconds: Time from sending the request until the whole answer was received.
        content: Body.
    """

    request: int
    status: int
    seconds: float
    content: bytes


def post_request(content: bytes, *, content_type: str = "application/json", path: str = "/v1/detect") -> bytes:
    """Returns the bytes of a POST request to a server on this machine."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Returns status and body of the next answer of a connection.

    Raises:
        asyncio.IncompleteReadError: The server closed the connection before.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    return int(head.split(" ", 2)[1]), await reader.readexactly(int(fields["content-length"]))


def run_clients(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> tuple[list[Answer], float]:
    """Sends requests by many clients at once; each sends its next request when it has an answer.

    Args:
        port: Port of the server on this machine.
        requests: Requests as bytes. The clients take turns, so that all requests are sent equally often.
        clients: Number of clients.
        seconds: No request begins later, but each is sent once in any case.

    Returns:
        All answers, and the seconds from the first request until the last answer. Connecting does not count.
    """
    return asyncio.run(_run(port, requests, clients, seconds))


async def _run(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> tuple[list[Answer], float]:
    turns = itertools.count()
    answers: list[Answer] = []
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(clients)]
    start = time.perf_counter()

    async def send_in_turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for turn in turns:
            begin = time.perf_counter()
            if begin - start >= seconds and turn >= len(requests):
                return
            writer.write(requests[turn % len(requests)])
            status, content = await read_answer(reader)
            answers.append(Answer(turn % len(requests), status, time.perf_counter() - begin, content))

    await asyncio.gather(*(send_in_turn(*pair) for pair in pairs))
    total = time.perf_counter() - start
    for _, writer in pairs:
        writer.close()
    return answers, total
