"""The ASGI application of one worker; nothing happens at import."""

from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ServiceError
from service.settings import Settings

from .catalog_routes import create_catalog_routes
from .direct import METHOD, Direct
from .documentation import add_documentation
from .edge import RECOMMEND, Edge
from .engine_client import Router
from .health_routes import create_health_routes
from .item_routes import create_item_routes
from .library import Library
from .model_routes import create_model_routes
from .openapi import describe, operation_id
from .problems import on_http_error, on_service_error, on_validation_error
from .routes import create_routes, recommendation
from .tracing import OnlyIds, Tracing
from .traffic_routes import create_traffic_routes

_DESCRIPTION = (
    "Generative recommendation: the next items for a history, found by a beam search over semantic item codes."
)


class Service(FastAPI):
    """The framework's application, and beside it the one route that nearly all requests take."""

    recommend: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct = scope["type"] == "http" and scope["path"] == RECOMMEND and scope["method"] == METHOD
        await (self.recommend if direct else super().__call__)(scope, receive, send)


def create_app(settings: Settings, router: Router, tracing: Tracing | None = None) -> FastAPI:
    """Answers with whatever engine `router` leads to; without `tracing` trace ids only reach the log."""
    tracing = tracing or OnlyIds()
    app = Service(
        title="PRORec Serve",
        version=version("prorec-serve"),
        description=_DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,  # the framework's pages load from the internet
        redoc_url=None,
        generate_unique_id_function=operation_id,
    )
    library = Library(settings)
    recommend = recommendation(settings, router)
    app.recommend = Edge(Direct(RECOMMEND, recommend), router, tracing)
    app.include_router(create_routes(settings, router, recommend))
    app.include_router(create_item_routes(settings, router))
    app.include_router(create_model_routes(settings, router, library))
    app.include_router(create_traffic_routes(settings, router, library))
    app.include_router(create_catalog_routes(settings, router, library))
    app.include_router(create_health_routes(settings, router))
    add_documentation(app)
    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_middleware(Edge, router=router, tracing=tracing)
    describe(app)
    return app
