"""OpenAPI description of the detection request, whose body has two forms."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from ssd.serve.request import DetectRequest, Options

DESCRIPTION = """Detects objects in images. Images are JPEG, PNG, WebP, BMP, GIF or TIFF of any color mode; their EXIF
orientation is applied unless the model was trained without. Errors have a `detail` that says what to change."""


class Found(BaseModel):
    """A detected object."""

    label: str
    score: float
    box: list[float] = Field(description="x1, y1, x2, y2 in pixels")


class Result(BaseModel):
    """Result of one image: detections or candidates, or an error."""

    width: int | None = None
    height: int | None = None
    detections: list[Found] | None = None
    candidates: list[list[float]] | None = Field(
        None, description="rows of label, score, x1, y1, x2, y2; label 1 is the first class"
    )
    times: dict[str, float] | None = Field(
        None, description="milliseconds of decode, queue, network and post-processing"
    )
    batch: int | None = Field(None, description="images that were processed together")
    error: str | None = Field(None, description="why the image cannot be read")


class Response(BaseModel):
    """Results in the order of the images."""

    model: str
    results: list[Result]
    total_ms: float


def _multipart() -> dict[str, Any]:
    schema = Options.model_json_schema()
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "Image files"}
    schema["properties"] = {"images": files, **schema["properties"]}
    schema["required"] = ["images"]
    return schema


_ERRORS = {
    400: "The host is not allowed",
    403: "Sent by a page of another site",
    408: "The body took too long",
    413: "The body is too large",
    415: "Neither JSON nor multipart",
    422: "Invalid options, or no image can be read",
    503: "Too many images are waiting",
    504: "No result in time",
}
DETECT: dict[str, Any] = {
    "response_model": None,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": DetectRequest.model_json_schema()},
                "multipart/form-data": {"schema": _multipart()},
            },
        }
    },
    "responses": {200: {"model": Response}, **{status: {"description": text} for status, text in _ERRORS.items()}},
}
