"""Models as Redis holds them: what is published, and, behind a token, which one is active."""

import asyncio
import hmac
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import AdminDenied, AdminOff, StoreUnavailable
from service.settings import Settings
from service.store import ANY, Deployment, Store, VersionInfo

from .body import parse, read_body
from .control import ModelState, Status
from .engine_client import Router
from .readiness import redis_health
from .schemas import Activated, ActivateRequest, Model, Models

Result = TypeVar("Result")


class Library:
    """The store, asked from a thread, so that a slow Redis holds no event loop up."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def ask(self, question: Callable[[Store], Result]) -> Result:
        """Raises StoreUnavailable when Redis does not answer, and what `question` raises."""
        return await asyncio.to_thread(lambda: question(self._store))

    @cached_property
    def _store(self) -> Store:
        if self._settings.redis_url is None:
            raise StoreUnavailable("this worker was started without a Redis URL")
        return Store.connect(self._settings.redis_url, self._settings.namespace)


def create_admin_routes(settings: Settings, router: Router) -> APIRouter:
    api = APIRouter(tags=["models"])
    library = Library(settings)
    token = [Depends(_token_check(settings.admin_token))]

    async def models() -> Models:
        """Published models, and what this replica does with them; works without Redis as far as it can."""
        try:
            deployment, published = await library.ask(lambda store: (store.deployment(), store.versions()))
        except StoreUnavailable:
            deployment, published = None, []
        return describe(deployment, published, router.status)

    async def activate(version: str, request: Request) -> Activated:
        """Makes a published version the active one; every replica loads it, proves it, and switches to it."""
        body = await read_body(request, settings.max_body_bytes)
        wanted = parse(body, ActivateRequest) if body else ActivateRequest(if_active=None)
        if_active = ANY if wanted.if_active is None else wanted.if_active
        deployment = await library.ask(lambda store: store.activate(version, if_active))
        router.request_retry()  # Redis tells the supervisor of a change only, and this may be none
        return _activated(deployment)

    async def rollback() -> Activated:
        """Makes the version that was active before this one the active one again."""
        return _activated(await library.ask(lambda store: store.rollback()))

    api.get("/models")(models)
    api.post("/models/rollback", dependencies=token)(rollback)
    api.post("/models/{version}/activate", dependencies=token, openapi_extra=_request_body())(activate)
    return api


def describe(deployment: Deployment | None, published: list[VersionInfo], status: Status) -> Models:
    """What Redis holds, joined with what this replica does."""
    states = {model.version: model for model in status.models}
    rows = [_model(info, states.pop(info.version, None)) for info in published]
    return Models(
        active_version=deployment.version if deployment else status.active_version,
        epoch=deployment.epoch if deployment else status.active_epoch,
        previous=list(deployment.previous) if deployment else [],
        models=rows + [_unpublished(state) for state in states.values()],
        redis=redis_health(status),
    )


def _model(info: VersionInfo, state: ModelState | None) -> Model:
    return Model(
        model_version=info.version,
        state=state.state if state else "published",
        reason=state.reason if state else None,
        created_at=info.created_at.isoformat(),
        published_at=info.published_at.isoformat(),
        bytes=info.bytes,
        item_count=info.item_count,
        metrics=info.metrics,
    )


def _unpublished(state: ModelState) -> Model:
    """Loaded here, though Redis does not list it (now)."""
    return Model(model_version=state.version, state=state.state, reason=state.reason)


def _activated(deployment: Deployment) -> Activated:
    version = deployment.version or ""  # activations and rollbacks leave one active
    return Activated(model_version=version, epoch=deployment.epoch, previous=list(deployment.previous))


def _token_check(token: str | None) -> Callable[..., None]:
    bearer = HTTPBearer(auto_error=False, description="PROREC_ADMIN_TOKEN of this replica")

    def check(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> None:
        if token is None:
            raise AdminOff("the admin interface is off; setting PROREC_ADMIN_TOKEN turns it on")
        if credentials is None:
            raise AdminDenied("this needs the header 'Authorization: Bearer TOKEN'")
        if not hmac.compare_digest(credentials.credentials.encode(), token.encode()):
            raise AdminDenied("the admin token is wrong")

    return check


def _request_body() -> dict[str, Any]:
    schema = ActivateRequest.model_json_schema()
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}
