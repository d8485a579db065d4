"""Settings of the server. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

BACKLOG = 2048  # connections that wait to be accepted
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus_client"}
PACKAGES["python_multipart"] = "python-multipart"  # module -> package


@dataclass(frozen=True)
class Settings:
    """Batching and limits of a server.

    Args:
        batch_size: Max images of a batch.
        batch_window: Seconds that an idle server waits for more images after the first one.
        max_body: Max bytes of a request's body.
        max_pixels: Max pixels of an image, checked before it is decoded.
        max_images: Max images of a request.
        max_waiting: Max images of all requests that are decoded or wait for the network.
        max_candidates: Max candidates per image that a response holds.
        max_connections: Max open connections.
        timeout: Seconds for each of: receiving a request, and answering it.
        head_timeout: Seconds for receiving the head of a request.
        hosts: Host names that a request may be addressed to; empty allows all.
    """

    batch_size: int = 8
    batch_window: float = 0.002
    max_body: int = 32 << 20
    max_pixels: int = 50_000_000
    max_images: int = 16
    max_waiting: int = 256
    max_candidates: int = 1000
    max_connections: int = 512
    timeout: float = 30.0
    head_timeout: float = 10.0
    hosts: tuple[str, ...] = LOOPBACK

    @property
    def max_held(self) -> int:
        """Max bytes of the bodies of all requests together."""
        return 16 * self.max_body
