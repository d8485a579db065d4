"""Body of a detection request: JSON with images in base64, or multipart with image files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ssd.serve.served_model import Rules

_MAX_FIELDS = 1000  # fields of a multipart body, one for each class


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        """Initializes the error with its status and message."""
        super().__init__(message)
        self.status = status


class Options(BaseModel):
    """Options of a detection request, for all of its images."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Name of the model; by default the first one")
    score_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Minimum score; by default the best threshold of each class in the last evaluation",
    )
    nms_threshold: float | None = Field(
        None, ge=0, le=1, description="IoU threshold of NMS; by default that of the model, or its Soft-NMS"
    )
    classes: list[str] | None = Field(None, description="Names of the classes to keep; by default all")
    candidates: bool = Field(False, description="Return the candidates before NMS, for post-processing by the client")

    def rules(self) -> Rules:
        """Returns the post-processing of the network's outputs."""
        return Rules(candidates=True) if self.candidates else Rules(self.nms_threshold)


class DetectRequest(Options):
    """A detection request in JSON."""

    images: list[str] = Field(min_length=1, description="Image files in base64, possibly as data URLs")


async def read_request(request: Request, max_images: int) -> tuple[list[bytes | str], Options]:
    """Reads the images and options of a request.

    Raises:
        RequestError: The body is invalid.
    """
    if request.query_params:
        name = next(iter(request.query_params))
        raise RequestError(422, f"options belong in the body, not in the query, got {name[:60]!r} there")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            parsed = await run_in_threadpool(DetectRequest.model_validate_json, await request.body())
            images: list[bytes | str] = list(parsed.images)
            options: Options = parsed
        elif kind == "multipart/form-data":
            images, fields = await _read_form(request, max_images)
            options = Options.model_validate(fields)
        else:
            raise RequestError(415, "Content-Type must be application/json or multipart/form-data")
    except ValidationError as error:
        raise RequestError(422, _message(error)) from None
    if not images:
        raise RequestError(422, "images: the request has no images; send at least one file in the field `images`")
    if len(images) > max_images:
        raise RequestError(422, f"images: at most {max_images} per request, got {len(images)}")
    return images, options


async def _read_form(request: Request, max_images: int) -> tuple[list[bytes | str], Mapping[str, Any]]:
    if not (await request.body())[-8:].rstrip().endswith(b"--"):  # which the parser does not check
        raise RequestError(422, "the multipart body is cut off: it must end with the boundary")
    parser = MultiPartParser(request.headers, request.stream(), max_files=max_images + 1, max_fields=_MAX_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(422, error.message) from None
    except Exception:  # a body that is cut off, or without a boundary
        raise RequestError(422, "the multipart body is malformed") from None
    images: list[bytes | str] = []
    fields: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "images":
                    raise RequestError(422, f"files must be in the field `images`, got {name[:60]!r}")
                images.append(await value.read())
            elif name == "images":
                raise RequestError(422, "images: must be files, got text; with curl: -F images=@FILE")
            elif name == "classes":
                fields.setdefault("classes", []).append(value)
            elif name in fields:
                raise RequestError(422, f"{name[:60]}: given more than once")
            else:
                fields[name] = value
    finally:
        await form.close()
    return images, fields


def _message(error: ValidationError) -> str:
    """Returns all errors in one line, without the values."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    words = [
        f"{'.'.join(str(part)[:60] for part in fault['loc'])}: {fault['msg']}".removeprefix(": ") for fault in faults
    ]
    return "; ".join(words[:5])
