"""Runs the application under uvicorn."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from ssd.serve.protocol import timed_protocol
from ssd.serve.settings import BACKLOG, Settings


def run(app: FastAPI, listener: socket.socket, settings: Settings) -> None:
    """Answers requests until SIGTERM or SIGINT, and then those that are under way.

    Args:
        app: Application.
        listener: Bound socket.
        settings: Limits.
    """
    server(app, settings).run(sockets=[listener])


def server(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """Returns a uvicorn server with the limits of the settings."""
    config = uvicorn.Config(
        app,
        http=timed_protocol(settings),
        ws="none",
        log_level="warning",
        server_header=False,
        limit_concurrency=settings.max_connections,
        backlog=BACKLOG,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(2 * settings.timeout) + 1,
    )
    return uvicorn.Server(config)
