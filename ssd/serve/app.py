"""The HTTP interface of the server."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ssd.common.console import package_version
from ssd.serve.api_schema import DESCRIPTION, DETECT
from ssd.serve.guard import Guard
from ssd.serve.request import RequestError, read_request
from ssd.serve.samples import Sample
from ssd.serve.service import Service


def create_app(service: Service, samples: Sequence[Sample]) -> FastAPI:
    """Returns the application of a server; it starts and ends the threads of the service.

    Args:
        service: Models and their threads.
        samples: Images to choose on the page.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(
        title="ssd serve",
        version=package_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its script from the network
        redoc_url=None,
    )
    app.add_middleware(Guard, settings=service.settings, count=_counter(service, app))
    if service.settings.hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(service.settings.hosts), www_redirect=False)
    _add_detection(app, service)
    _add_status(app, service)
    _add_pages(app, samples)
    return app


def _add_detection(app: FastAPI, service: Service) -> None:
    @app.exception_handler(RequestError)
    async def answer_error(_: Request, error: RequestError) -> JSONResponse:
        headers = {"retry-after": "1"} if error.status == 503 else None
        return JSONResponse({"detail": str(error)}, error.status, headers)

    @app.post("/v1/detect", summary="Detect objects in images", **DETECT)
    async def detect(request: Request) -> JSONResponse:
        contents, options = await read_request(request, service.settings.max_images)
        found = await service.detect(request, contents, options)
        return JSONResponse(found, service.status(found["results"]))

    @app.get("/v1/models", summary="List the models")
    async def models() -> dict[str, Any]:
        limits = {name: getattr(service.settings, name) for name in ("max_body", "max_pixels", "max_images")}
        return {"models": [model.about() for model in service.models.values()], "limits": limits}


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether requests are answered; 503 if not")
    async def health() -> JSONResponse:
        alive = service.batcher.alive
        content = {"status": "ok" if alive else "stopping", "models": list(service.models), "waiting": service.waiting}
        return JSONResponse(content, 200 if alive else 503)

    @app.get("/metrics", summary="Metrics in Prometheus format", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_pages(app: FastAPI, samples: Sequence[Sample]) -> None:
    for path, name in (("/", "page.html"), ("/docs", "api.html")):
        text = files("ssd.serve").joinpath(name).read_text(encoding="utf-8")
        app.get(path, include_in_schema=False)(_page(text))

    @app.get("/samples", include_in_schema=False)
    async def list_samples() -> list[str]:
        return [sample.name for sample in samples]

    @app.get("/samples/{number}", include_in_schema=False)
    async def read_sample(number: int) -> Response:
        if not 0 <= number < len(samples):
            return JSONResponse({"detail": f"there are {len(samples)} samples"}, 404)
        return Response(samples[number].jpeg, media_type="image/jpeg")


def _page(text: str) -> Callable[[], Awaitable[HTMLResponse]]:
    """Returns the handler of a page that may load nothing but from this server, and run its own script only."""
    policy = ["default-src 'none'", "connect-src 'self'", "img-src 'self' blob: data:", "frame-ancestors 'none'"]
    for kind in ("script", "style"):
        parts = re.findall(rf"<{kind}>(.*?)</{kind}>", text, flags=re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        policy.append(" ".join([f"{kind}-src", *(f"'sha256-{value}'" for value in hashes)]))
    headers = {"content-security-policy": "; ".join(policy), "cache-control": "no-cache"}

    async def page() -> HTMLResponse:
        return HTMLResponse(text, headers=headers)

    return page


def _counter(service: Service, app: FastAPI) -> Callable[[str, int], None]:
    def count(path: str, status: int) -> None:
        known = any(getattr(route, "path", None) == path for route in app.routes)  # not every path becomes a series
        service.metrics.requests.labels(path if known else "other", str(status)).inc()

    return count
