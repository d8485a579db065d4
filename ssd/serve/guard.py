"""Limits on requests before the application sees them: size of the body, time to send it, memory, and origin."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssd.serve.settings import Settings

_DRAIN_SECONDS = 2.0
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """ASGI middleware that receives the whole body of a request within limits, and adds headers to responses.

    Args:
        app: Application.
        settings: Limits.
        count: Called with path and status of every answer.
    """

    def __init__(self, app: ASGIApp, settings: Settings, count: Callable[[str, int], None]) -> None:
        self.app = app
        self.settings = settings
        self._count = count
        self._held = 0  # bytes of the bodies of all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application on a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
                self._count(scope["path"], message["status"])
            await send(message)

        if scope["method"] in ("GET", "HEAD"):
            # The routes know GET only; the server omits the body of an answer to HEAD.
            await self.app({**scope, "method": "GET"}, receive, send_with_headers)
            return
        body = bytearray()
        try:
            fault = await self._receive(scope, receive, body)
            if fault is not None:
                await _reject(receive, send_with_headers, *fault)
                return
            await self.app(scope, _replayed(bytes(body), receive), send_with_headers)
        finally:
            self._held -= len(body)

    async def _receive(self, scope: Scope, receive: Receive, body: bytearray) -> tuple[int, str] | None:
        """Appends the body of a request to `body`; returns status and message if it must be rejected."""
        headers, limit = Headers(scope=scope), self.settings.max_body
        too_large = (413, f"the body is larger than {limit} bytes")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return 403, "requests from pages of other sites are not accepted"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            return too_large
        with anyio.move_on_after(self.settings.timeout):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return 499, "the client closed the connection"
                part = message.get("body", b"")
                body += part
                self._held += len(part)
                if len(body) > limit:
                    return too_large
                if self._held > self.settings.max_held:
                    return 503, "other requests fill the memory; try again later"
                if not message.get("more_body", False):
                    return None
        return 408, f"the body was not received within {self.settings.timeout:g} seconds"


async def _reject(receive: Receive, send: Send, status: int, message: str) -> None:
    response = JSONResponse({"detail": message}, status, {"connection": "close"})
    await send({"type": "http.response.start", "status": status, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    # Closing with unread bytes resets the connection, and the client may lose the answer.
    with anyio.move_on_after(_DRAIN_SECONDS):
        while status == 413:
            message_ = await receive()
            if message_["type"] == "http.disconnect" or not message_.get("more_body", False):
                break
    await send({"type": "http.response.body", "body": b""})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Returns a receive function that yields the whole body first."""
    rest = [body]

    async def replayed() -> Message:
        if rest:
            return {"type": "http.request", "body": rest.pop(), "more_body": False}
        return await receive()

    return replayed
