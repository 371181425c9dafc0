"""What OpenAPI is told of each operation: its body, its errors, examples."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydantic import BaseModel

from service.errors import (
    PROBLEM_MEDIA_TYPE,
    AdminDenied,
    AdminOff,
    BadBeamWidth,
    BadFilter,
    BadJson,
    BadK,
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    Draining,
    EngineCrashed,
    EngineFailed,
    FieldError,
    NotLoaded,
    NotReady,
    Overloaded,
    ServiceError,
    StoreUnavailable,
    problem,
)

BODY: Final[Sequence[type[ServiceError]]] = (BadJson, BodyTooLarge, BadRequest)
ENGINE: Final[Sequence[type[ServiceError]]] = (NotReady, Draining, DeadlineExceeded, EngineFailed, EngineCrashed)
RECOMMENDING: Final = (*BODY, BadK, BadBeamWidth, BadFilter, NotLoaded, Overloaded, *ENGINE)
READING: Final = (BadRequest, NotReady, DeadlineExceeded, EngineFailed)
ADMIN: Final[Sequence[type[ServiceError]]] = (AdminDenied, AdminOff, StoreUnavailable)

_REQUEST_ID = "6f1c0c1b6a0b4d0f8f0a5a2a4a8f9b1e"


def request_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Handlers read bodies themselves, to count their bytes; this tells OpenAPI what they expect."""
    content = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def errors(*kinds: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation that may fail like this: for each status its codes, and an example of each."""
    by_status: dict[int, list[type[ServiceError]]] = defaultdict(list)
    for kind in kinds:
        by_status[kind.status].append(kind)
    return {status: _response(by_status[status]) for status in sorted(by_status)}


def problem_examples() -> dict[str, dict[str, Any]]:
    """One for each code of `service.errors`."""
    kinds = {kind.code: kind for kind in _kinds(ServiceError) if kind.__module__ == ServiceError.__module__}
    return {code: {"value": problem(_instance(kinds[code]), _REQUEST_ID)} for code in sorted(kinds)}


def answer(example: Any, description: str = "OK") -> dict[int | str, dict[str, Any]]:
    """An example of a 200."""
    return {200: {"description": description, "content": {"application/json": {"example": example}}}}


def _response(kinds: list[type[ServiceError]]) -> dict[str, Any]:
    return {
        "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in kinds),
        "content": {
            PROBLEM_MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {kind.code: {"$ref": f"#/components/examples/{kind.code}"} for kind in kinds},
            }
        },
    }


def _kinds(root: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)


def _instance(kind: type[ServiceError]) -> ServiceError:
    if kind is BadRequest:
        wrong = FieldError(pointer="/k", detail="must be greater than or equal to 1")
        return BadRequest("/k must be greater than or equal to 1", [wrong])
    return kind(kind.title)
