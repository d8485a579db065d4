"""uvicorn's HTTP protocol with time limits on slow clients, and with answers to invalid heads that clients can read."""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ssd.serve.settings import Settings

_DRAIN_SECONDS = 5.0


class TimedProtocol(H11Protocol):
    """Closes a connection whose client does not send a head, or does not take its response, in time.

    The guard answers most slow requests with an error before this; here are the remaining cases. uvicorn itself would let
    them hold a connection, and would reset that of a client which still sends its head when it is rejected.
    """

    settings = Settings()
    _timer: asyncio.TimerHandle | None = None
    _watched: object = None  # the request that the timer is for
    _is_draining = False  # what the client still sends is discarded

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the timer of the first head."""
        super().connection_made(transport)
        self._start(self.settings.head_timeout)

    def data_received(self, data: bytes) -> None:
        """Starts the timer of a request when its head is complete, or of the next head when it begins."""
        if self._is_draining:
            return
        super().data_received(data)
        if self.cycle is not None and self.cycle is not self._watched:
            self._watch_request()
        elif self.cycle is not None and self.cycle.response_complete and not self._is_for_head:
            self._start(self.settings.head_timeout)

    def send_400_response(self, msg: str) -> None:
        """Answers invalid HTTP with 400, or a head that is too large with 431; called while h11's error is handled."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # in the middle of a response
            return
        if self.cycle is not None:  # the body of its request is invalid
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        status = HTTPStatus(getattr(sys.exc_info()[1], "error_status_hint", 400))
        body = json.dumps({"detail": "the head of the request is too large" if status == 431 else msg}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        response = h11.Response(status_code=status, headers=headers, reason=status.phrase.encode())
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        # Closing with unread bytes resets the connection, and the client may lose the answer.
        self._is_draining = True
        self.transport.write_eof()
        self._start(_DRAIN_SECONDS)

    def on_response_complete(self) -> None:
        """Starts the timer of the next request, of which uvicorn may have received the head already."""
        super().on_response_complete()
        if self.cycle is not self._watched:
            self._watch_request()
        else:
            self._start(self.timeout_keep_alive + self.settings.head_timeout)
            self._is_for_head = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timer."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _watch_request(self) -> None:
        self._watched = self.cycle
        self._start(3 * self.settings.timeout)  # to receive the body, to answer, and to send the answer
        self._is_for_head = False

    def _start(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._abort)
        self._is_for_head = True

    def _abort(self) -> None:
        self.transport.abort()


def timed_protocol(settings: Settings) -> type[TimedProtocol]:
    """Returns the protocol with the time limits of a server."""
    return type("TimedProtocol", (TimedProtocol,), {"settings": settings})
