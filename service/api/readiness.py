"""Whether this replica can answer, in sentences for whoever operates it."""

from collections.abc import Iterator
from typing import Literal

from service.frames import EngineInfo

from .control import ModelState, Route, Status
from .engine_client import Router
from .health_schemas import EngineHealth, Ready, RedisHealth, VersionFailure


def health(router: Router) -> Ready:
    """As this worker sees it now; asks nobody."""
    status, route = router.status, router.route
    reasons, notes = list(_reasons(router)), list(_notes(status, route))
    return Ready(
        status=_verdict(reasons, notes),
        reasons=reasons,
        notes=notes,
        model_version=route.info.model_version if route else None,
        active_version=status.active_version,
        canary_version=_canary(router),
        shadow_version=router.routes.shadow.info.model_version if router.routes.shadow else None,
        staleness_s=round(status.staleness_s, 3),
        redis=redis_health(status),
        engine=engine_health(route.info) if route else None,
        failures=[
            VersionFailure(model_version=model.version, reason=model.reason or "", retry_at=model.retry_at)
            for model in status.failed
        ],
    )


def _canary(router: Router) -> str | None:
    """The canary's version, where an engine of it is ready."""
    ready = {route.info.model_version for route in router.routes.others}
    return router.routes.canary if router.routes.canary in ready else None


def redis_health(status: Status) -> RedisHealth:
    return RedisHealth.model_validate({"state": status.redis, "since": status.redis_since or None})


def _verdict(reasons: list[str], notes: list[str]) -> Literal["ready", "degraded", "not_ready"]:
    if reasons:
        return "not_ready"
    return "degraded" if notes else "ready"


def _reasons(router: Router) -> Iterator[str]:
    """Why no request can be answered now."""
    if router.status.draining:
        yield "this replica is draining"
    if router.ready:
        return
    if router.route is not None:
        yield "the engine has ended and its successor is starting"
    else:
        yield from _nothing_loaded(router.status)


def _nothing_loaded(status: Status) -> Iterator[str]:
    if status.catalog_unknown:
        yield from _not_known(status, status.catalog_unknown)
    elif status.active_version is not None:
        failures = [_sentence(model) for model in status.failed if model.version == status.active_version]
        yield from failures or [f"model {status.active_version} is being loaded"]
    elif status.redis == "ok":
        yield "no model is active: publish one (python -m service publish DIR) and activate it (… activate VERSION)"
    elif status.redis == "unreachable":
        yield f"no model could be loaded: {status.redis_reason}"
    else:
        yield "this replica is starting"


def _not_known(status: Status, reason: str) -> Iterator[str]:
    yield f"{reason}; nothing is served until Redis tells"
    if status.redis_reason:
        yield status.redis_reason
    if status.catalog_lost:
        yield (
            "Redis has lost the changes of the catalog: put them back from another replica's machine "
            "(python -m service restore), or do without them (… restore --forget-changes)"
        )


def _notes(status: Status, route: Route | None) -> Iterator[str]:
    """What is wrong although requests are answered."""
    if route is None:
        return
    if status.redis == "unreachable":
        yield f"{status.redis_reason}; the loaded model keeps answering"
    if status.redis == "lost":
        yield (
            "Redis has lost the name of the active model; the loaded one keeps answering until it is put back "
            "(python -m service restore) or another one is activated"
        )
    if status.catalog_lost:
        yield (
            "Redis has lost the changes of the catalog; they are obeyed here, and new ones are refused until they are "
            "put back (python -m service restore)"
        )
    if status.redis in ("ok", "lost") and status.redis_refusal:
        yield f"{status.redis_refusal}; what is active stays active"
    yield from map(_sentence, status.failed)  # also of versions that are only loaded, canary or shadow
    failed = {model.version for model in status.failed}
    if status.active_version not in (None, route.info.model_version, *failed):
        yield f"model {status.active_version} is being loaded, {route.info.model_version} answers meanwhile"


def _sentence(model: ModelState) -> str:
    return f"model {model.version} failed: {model.reason}"


def engine_health(info: EngineInfo) -> EngineHealth:
    return EngineHealth(
        provider=info.provider,
        precision=info.precision,
        golden_overlap=round(info.golden_overlap, 4),
        item_count=info.item_count,
        beam_widths=info.beam_widths,
        filter_slots=info.filter_slots,
        load_s=info.load_s,
        warm_s=info.warm_s,
    )
