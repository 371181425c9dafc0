"""What Redis holds about models, joined with what replicas do with them."""

from collections.abc import Sequence

import msgspec

from service.frames import EngineInfo
from service.store import Canary, Deployment, ReplicaReport, VersionInfo

from .control import ModelState, Status
from .model_schemas import (
    CanaryShare,
    Deployed,
    Event,
    Model,
    ModelDetail,
    Models,
    Replica,
    Replicas,
    ReplicaState,
    Step,
)
from .readiness import engine_health, redis_health


def list_models(deployment: Deployment | None, published: Sequence[VersionInfo] | None, status: Status) -> Models:
    """What is published (None: Redis did not answer), and what else this replica has loaded."""
    states = {model.version: model for model in status.models}
    rows = [_model(info, states.pop(info.version, None)) for info in published or ()]
    if published is not None:  # what is neither there nor here has been deleted
        states = {version: state for version, state in states.items() if state.state != "unloaded"}
    return Models(
        active_version=deployment.version if deployment else status.active_version,
        epoch=deployment.epoch if deployment else status.active_epoch,
        previous=list(deployment.previous) if deployment else [],
        models=rows + [_unpublished(state) for state in states.values()],
        redis=redis_health(status),
    )


def describe_model(
    model: Model,
    state: ModelState | None,
    engine: EngineInfo | None,
    deployment: Deployment | None,
    reports: Sequence[ReplicaReport] | None,
) -> ModelDetail:
    """One version of `list_models`, and its `engine` here; `reports` is None where Redis did not answer."""
    version = model.model_version
    return ModelDetail(
        **dict(model),
        roles=deployment.roles_of(version) if deployment else [],
        since=state.since if state else None,
        retry_at=state.retry_at if state else None,
        transitions=[
            Step(state=step.state, at=step.at, reason=step.reason) for step in (state.transitions if state else ())
        ],
        engine=engine_health(engine) if engine else None,
        replicas=None if reports is None else [_replica_state(report, version) for report in reports],
    )


def deployed(deployment: Deployment | None, followed_by: Sequence[ReplicaReport] | None = None) -> Deployed:
    """None: nothing was ever deployed."""
    now = deployment or Deployment(None, 0, reason="none")
    return Deployed(
        model_version=now.version,
        epoch=now.epoch,
        previous=list(now.previous),
        pinned=list(now.pinned),
        canary=_canary(now.canary),
        shadow=now.shadow,
        reason=now.reason,
        at=now.at,
        followed_by=None if followed_by is None else [report.replica for report in followed_by],
    )


def describe_event(deployment: Deployment, from_version: str | None) -> Event:
    return Event(
        at=deployment.at,
        epoch=deployment.epoch,
        reason=deployment.reason,
        model_version=deployment.version,
        from_version=from_version,
        pinned=list(deployment.pinned),
        canary=_canary(deployment.canary),
        shadow=deployment.shadow,
    )


def list_replicas(deployment: Deployment | None, reports: Sequence[ReplicaReport]) -> Replicas:
    return Replicas(
        active_version=deployment.version if deployment else None,
        replicas=[
            Replica(**msgspec.structs.asdict(report), roles=deployment.roles_of(report.serving) if deployment else [])
            for report in reports
        ],
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
        metrics_of=info.metrics_of,
        refitted_from=info.refitted_from,
    )


def _unpublished(state: ModelState) -> Model:
    """Loaded here, though Redis does not list it (now)."""
    return Model(model_version=state.version, state=state.state, reason=state.reason)


def _replica_state(report: ReplicaReport, version: str) -> ReplicaState:
    return ReplicaState(
        replica=report.replica,
        address=report.address,
        state=report.states.get(version),
        serving=report.serving == version,
        ready=version in report.ready_for,
    )


def _canary(canary: Canary | None) -> CanaryShare | None:
    return CanaryShare.model_validate(canary, from_attributes=True) if canary else None
