"""The ASGI application of one worker; nothing happens at import."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.errors import PROBLEM_MEDIA_TYPE, ServiceError
from service.settings import Settings

from .admin import create_admin_routes
from .edge import Edge
from .engine_client import Router
from .problems import on_http_error, on_service_error, on_validation_error
from .routes import create_routes
from .schemas import Problem

_DESCRIPTION = (
    "Generative recommendation: the next items for a history, found by a beam search over semantic item codes."
)


def create_app(settings: Settings, router: Router) -> FastAPI:
    """Answers with whatever engine `router` leads to."""
    app = FastAPI(
        title="PRORec Serve", version=version("prorec-serve"), description=_DESCRIPTION, redirect_slashes=False
    )
    app.include_router(create_routes(settings, router))
    app.include_router(create_admin_routes(settings, router))
    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_middleware(Edge, router=router)
    _describe_problems(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """Puts problem details where OpenAPI would show the framework's own error bodies."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document["components"]["schemas"]
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(problem.pop("$defs"), Problem=problem)
            for operation in (operation for path in document["paths"].values() for operation in path.values()):
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _PROBLEM
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


_PROBLEM = {
    "description": "An error",
    "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
