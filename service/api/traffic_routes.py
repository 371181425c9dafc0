"""Who gets traffic, which replicas live, and what was changed; all behind a token."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from service.errors import UnknownVersion
from service.settings import Settings
from service.store import Canary

from .access import token_check
from .body import only_known_parameters, parse, read_body
from .engine_client import Router
from .library import Library
from .model_answers import deployed, describe_event, list_replicas
from .model_schemas import (
    DEPLOYED_EXAMPLE,
    EVENTS_EXAMPLE,
    REPLICAS_EXAMPLE,
    Deployed,
    Events,
    Replicas,
    TrafficRequest,
)
from .operations import ADMIN, BODY, answer, errors, request_body

EventLimit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]


def create_traffic_routes(settings: Settings, router: Router, library: Library) -> APIRouter:
    api = APIRouter(tags=["traffic"], dependencies=[Depends(token_check(settings.admin_token))])

    async def traffic() -> Deployed:
        """Which version serves, which gets a share of the users, and which is asked too."""
        return deployed(await library.ask(lambda store: store.deployment()))

    async def set_traffic(request: Request) -> Deployed:
        """Replaces canary and shadow; both are loaded first, and get traffic when they are ready."""
        wanted = parse(await read_body(request, settings.max_body_bytes), TrafficRequest)
        canary = Canary(wanted.canary.version, wanted.canary.percent) if wanted.canary else None
        deployment = await library.ask(lambda store: store.set_traffic(canary, wanted.shadow))
        router.request_retry()
        return deployed(deployment)

    async def replicas() -> Replicas:
        """Replicas that reported within the last seconds, and what each of them answers with."""
        return list_replicas(*await library.ask(lambda store: (store.deployment(), store.replicas())))

    async def events(limit: EventLimit = 100) -> Events:
        """What was changed about models and traffic, newest first."""
        found = await library.ask(lambda store: store.events(limit))
        return Events(events=[describe_event(event.deployment, event.from_version) for event in found])

    deployment_example = answer(DEPLOYED_EXAMPLE)
    api.get("/traffic", responses=errors(*ADMIN) | deployment_example)(traffic)
    api.put(
        "/traffic",
        openapi_extra=request_body(TrafficRequest),
        responses=errors(*ADMIN, *BODY, UnknownVersion) | deployment_example,
    )(set_traffic)
    api.get("/replicas", responses=errors(*ADMIN) | answer(REPLICAS_EXAMPLE))(replicas)
    checked = [Depends(only_known_parameters)]
    api.get("/events", responses=errors(*ADMIN, BODY[-1]) | answer(EVENTS_EXAMPLE), dependencies=checked)(events)
    return api
