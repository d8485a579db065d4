"""uvicorn's HTTP protocol with a time limit on clients that send or read slowly, which uvicorn lets hold a connection."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from ssd.serve.settings import Settings


class TimedProtocol(H11Protocol):
    """Closes a connection whose client does not send a head, or does not take its response, in time.

    The guard answers most slow requests with an error before this; here are the remaining cases.
    """

    settings = Settings()
    _timer: asyncio.TimerHandle | None = None
    _watched: object = None  # the request that the timer is for

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the timer of the first head."""
        super().connection_made(transport)
        self._start(self.settings.head_timeout)

    def data_received(self, data: bytes) -> None:
        """Starts the timer of a request when its head is complete, or of the next head when it begins."""
        super().data_received(data)
        if self.cycle is not None and self.cycle is not self._watched:
            self._watch_request()
        elif self.cycle is not None and self.cycle.response_complete and not self._is_for_head:
            self._start(self.settings.head_timeout)

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
