"""The OpenAPI document: what the framework writes, with what it cannot know put right."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.errors import PROBLEM_MEDIA_TYPE

from .catalog_schemas import AddItems, PatchItems, RemoveItems
from .model_schemas import ActivateRequest, RollbackRequest, TrafficRequest
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


def _complete(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _, found = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
    schemas.update(found["$defs"])
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        _only_problems(operation["responses"])


def _only_problems(responses: dict[str, Any]) -> None:
    if "application/json" in responses.get("422", {}).get("content", {}):  # the framework's own
        del responses["422"]
    responses["default"] = _ANY_ERROR
