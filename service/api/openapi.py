"""The OpenAPI document: what the framework writes, with what it cannot know put right."""

import json
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.errors import PROBLEM_MEDIA_TYPE
from service.settings import Settings

from .catalog_schemas import AddItems, PatchItems, RemoveItems
from .engine_client import Router
from .model_schemas import ActivateRequest, RollbackRequest, TrafficRequest
from .operations import problem_examples
from .problems import Problem
from .schemas import BatchRequest, RecommendRequest

_REF: Final = "#/components/schemas/{model}"
_MODELS: Final[tuple[type[BaseModel], ...]] = (  # that handlers read themselves
    *(RecommendRequest, BatchRequest, ActivateRequest, RollbackRequest, TrafficRequest),
    *(PatchItems, AddItems, RemoveItems),
    Problem,
)
_ANY_ERROR: Final = {
    "description": "Another error",
    "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
}

_HEADERS: Final = {
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "Names the request in answers and logs; one is made up where none is given.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "Traceparent": {
        "name": "traceparent",
        "in": "header",
        "description": "The trace that the request belongs to (W3C Trace Context).",
        "schema": {"type": "string"},
        "example": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
}


def operation_id(route: APIRoute) -> str:
    """Short names for generated clients; every handler has a name of its own."""
    return route.name


def describe(app: FastAPI) -> None:
    """Adds the bodies that handlers read, and problem details in place of the framework's own error bodies."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generate())
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def export() -> str:
    """The document as JSON text; no setting changes it."""
    from .app import create_app  # which describes itself by this module

    app = create_app(Settings.model_construct(), Router(in_flight_limit=1))
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


def _complete(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _, found = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
    schemas.update(found["$defs"])
    document["components"] |= {"parameters": _HEADERS, "examples": problem_examples()}
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        operation.setdefault("parameters", []).extend({"$ref": f"#/components/parameters/{name}"} for name in _HEADERS)
        _only_problems(operation["responses"])


def _only_problems(responses: dict[str, Any]) -> None:
    if "application/json" in responses.get("422", {}).get("content", {}):  # the framework's own
        del responses["422"]
    responses["default"] = _ANY_ERROR
