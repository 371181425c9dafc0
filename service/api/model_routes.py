"""Models as Redis holds them: what is published, and, behind a token, which of them are loaded and which one serves."""

import time
from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Depends, Request, Response

from service.errors import (
    Draining,
    LostRace,
    NoPrevious,
    NotFollowed,
    StoreUnavailable,
    UnknownVersion,
    VersionActive,
    VersionPinned,
)
from service.settings import Settings
from service.store import ANY, Deployment, ReplicaReport, Store
from service.store.deployment import Unconditional

from .access import token_check
from .body import Body, parse, read_body
from .connected import WhileConnected
from .engine_client import Router
from .library import Library
from .model_answers import deployed, describe_model, list_models
from .model_schemas import (
    DEPLOYED_EXAMPLE,
    MODEL_EXAMPLE,
    MODELS_EXAMPLE,
    ActivateRequest,
    Deployed,
    ModelDetail,
    Models,
    RollbackRequest,
)
from .operations import ADMIN, BODY, answer, errors, request_body

_LOOK_S: Final = 2.5  # how long a thread waits at a time, so that a drain does not wait for all of `wait_s`


Change = Callable[[Store], Deployment]


class ModelRoutes:
    """The operations on models; their docstrings are what the interface's documentation says."""

    def __init__(self, settings: Settings, router: Router, library: Library) -> None:
        self._settings = settings
        self._router = router
        self._library = library

    async def models(self) -> Models:
        """Published models, and what this replica does with them; works without Redis as far as it can."""
        try:
            deployment, published = await self._library.ask(lambda store: (store.deployment(), store.versions()))
        except StoreUnavailable:
            deployment, published = None, None
        return list_models(deployment, published, self._router.status)

    async def model(self, version: str) -> ModelDetail:
        """One version: what is published, how it came to its state on this replica, and what other replicas say."""
        listed = await self.models()
        model = next((model for model in listed.models if model.model_version == version), None)
        deployment, reports = await self._known(unless=model is None)
        if model is None:
            raise UnknownVersion(f"no version named {version!r} is published")
        state = self._router.status.model(version)
        return describe_model(model, state, self._router.engine_of(version), deployment, reports)

    async def load(self, version: str, response: Response) -> Deployed:
        """Wants a version loaded on every replica, ready to be asked for by name or activated at once; pins it."""
        deployment = await self._library.ask(lambda store: store.pin(version))
        self._router.request_retry()
        response.headers["Location"] = f"/models/{version}"  # tells how far it is
        return deployed(deployment)

    async def unload(self, version: str) -> Deployed:
        """Takes back that a version is to be loaded; it ends where nothing else needs it."""
        return deployed(await self._library.ask(lambda store: store.unpin(version)))

    async def activate(self, version: str, request: Request) -> Deployed:
        """Makes a published version the active one; every replica loads it, proves it, and switches to it."""
        wanted = await self._optional(request, ActivateRequest)
        condition = _condition(wanted.if_active)
        return await self._change(request, wanted.wait_s, lambda store: store.activate(version, condition))

    async def rollback(self, request: Request) -> Deployed:
        """Makes a version that was active before the active one again: the last one, or an earlier one."""
        wanted = await self._optional(request, RollbackRequest)
        condition = _condition(wanted.if_active)
        return await self._change(
            request, wanted.wait_s, lambda store: store.rollback(wanted.steps, wanted.to, condition)
        )

    async def delete(self, version: str) -> None:
        """Removes a version from Redis, unless it is active, pinned, a canary or a shadow."""
        await self._library.ask(lambda store: store.delete(version))

    async def _known(self, *, unless: bool) -> tuple[Deployment | None, list[ReplicaReport] | None]:
        """What Redis tells beside the versions; where it is silent nothing, or `unless` StoreUnavailable."""
        try:
            return await self._library.ask(lambda store: (store.deployment(), store.replicas()))
        except StoreUnavailable:
            if unless:
                raise
            return None, None

    async def _optional(self, request: Request, model: type[Body]) -> Body:
        body = await read_body(request, self._settings.max_body_bytes)
        return parse(body, model) if body else model()

    async def _change(self, request: Request, wait_s: float | None, change: Change) -> Deployed:
        deployment = await self._library.ask(change)
        self._router.request_retry()  # Redis tells the supervisor of a change only, and this may be none
        if wait_s is None:
            return deployed(deployment)
        with WhileConnected(request.receive):
            return deployed(deployment, await self._followers(deployment.version or "", wait_s))

    async def _followers(self, version: str, wait_s: float) -> list[ReplicaReport]:
        deadline = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            look_s = min(left_s, _LOOK_S)
            if self._router.status.draining:
                raise Draining("the change is made; this replica goes away and waits no longer for the others")
            try:
                return await self._library.ask(lambda store, look_s=look_s: store.wait_until_active(version, look_s))  # type: ignore[misc]
            except NotFollowed as error:
                over = left_s <= _LOOK_S or not error.laggards  # nobody lives, or something else became active
                if over and not self._router.status.draining:
                    raise


def create_model_routes(settings: Settings, router: Router, library: Library) -> APIRouter:
    api = APIRouter(tags=["models"])
    routes = ModelRoutes(settings, router, library)
    token = [Depends(token_check(settings.admin_token))]
    known = (*ADMIN, UnknownVersion)
    moving = errors(*known, *BODY, LostRace, Draining, NotFollowed) | answer(DEPLOYED_EXAMPLE)
    back = errors(*known, *BODY, LostRace, NoPrevious, Draining, NotFollowed) | answer(DEPLOYED_EXAMPLE)
    loading: dict[int | str, dict[str, Any]] = {202: answer(DEPLOYED_EXAMPLE, "Being loaded")[200]}

    def optional(model: type[Any]) -> dict[str, Any]:
        return request_body(model, required=False)

    api.get("/models", dependencies=token, responses=errors(*ADMIN) | answer(MODELS_EXAMPLE))(routes.models)
    api.post("/models/rollback", dependencies=token, openapi_extra=optional(RollbackRequest), responses=back)(
        routes.rollback
    )
    api.get("/models/{version}", dependencies=token, responses=errors(*known) | answer(MODEL_EXAMPLE))(routes.model)
    api.delete(
        "/models/{version}",
        dependencies=token,
        status_code=204,
        responses=errors(*known, VersionActive, VersionPinned) | {204: {"description": "Deleted"}},
    )(routes.delete)
    api.post("/models/{version}/load", dependencies=token, status_code=202, responses=errors(*known) | loading)(
        routes.load
    )
    api.post("/models/{version}/unload", dependencies=token, responses=errors(*known) | answer(DEPLOYED_EXAMPLE))(
        routes.unload
    )
    api.post(
        "/models/{version}/activate", dependencies=token, openapi_extra=optional(ActivateRequest), responses=moving
    )(routes.activate)
    return api


def _condition(if_active: str | None) -> str | Unconditional:
    return ANY if if_active is None else if_active
