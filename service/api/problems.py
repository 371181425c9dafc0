"""Every error a worker answers with, as RFC 9457 problem details with the request's id."""

# Named for what happened, like those of `service.errors`.
# ruff: noqa: N818

import json
import logging

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.errors import PROBLEM_MEDIA_TYPE, ServiceError, problem

from .body import bad_request, field_error

logger = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    pointer: str = Field(description="JSON pointer (RFC 6901) into the request's body.")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    code: str = Field(description="Stable, for programs.")
    detail: str = Field(description="One sentence, for people.")
    request_id: str
    errors: list[FieldProblem] | None = Field(None, description="The wrong fields of a 422.")
    active: str | None = Field(None, description="What is active, with a lost race (409).")
    laggards: list[str] | None = Field(None, description="Replicas that did not follow in time (504).")


class NoSuchPath(ServiceError):
    code = "not_found"
    status = 404
    title = "No such path"


class WrongMethod(ServiceError):
    """The path exists, the method does not; `allow` names those that do."""

    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"

    def __init__(self, detail: str, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": self.allow}


class BadHttp(ServiceError):
    code = "bad_http"
    status = 400
    title = "Not HTTP"


class RequestTimeout(ServiceError):
    code = "request_timeout"
    status = 408
    title = "Request not complete in time"


class HeadTooLarge(ServiceError):
    code = "head_too_large"
    status = 431
    title = "Headers too large"


class Unexpected(ServiceError):
    """A fault of this program; the log says more."""


def respond(error: ServiceError, request_id: str) -> Response:
    body = json.dumps(problem(error, request_id)).encode()
    return Response(body, error.status, error.headers, PROBLEM_MEDIA_TYPE)


async def on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if error.status == ServiceError.status:
        logger.error("request %s: %s", request.state.request_id, error)
    return respond(error, request.state.request_id)


async def on_http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: a path or a method that does not exist."""
    assert isinstance(error, HTTPException)
    return respond(_from_http(request, error), request.state.request_id)


async def on_validation_error(request: Request, error: Exception) -> Response:
    """What the framework's own parsing of parameters refuses."""
    assert isinstance(error, RequestValidationError)
    errors = [field_error(found | {"loc": found["loc"][1:]}) for found in error.errors()]
    return respond(bad_request(errors), request.state.request_id)


def _from_http(request: Request, error: HTTPException) -> ServiceError:
    path = request.url.path
    if error.status_code == WrongMethod.status:
        allow = (error.headers or {}).get("Allow", "")
        return WrongMethod(f"{path} does not take {request.method}, it takes {allow}", allow)
    if error.status_code == NoSuchPath.status:
        return NoSuchPath(f"there is no {path}; /docs lists the paths")
    logger.error("request %s: %r", request.state.request_id, error)
    return Unexpected("the request could not be handled")
