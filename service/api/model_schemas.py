"""What operators send and receive about models, traffic and replicas, as OpenAPI shows it."""

from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from .body import REQUEST, Small, request_with
from .health_schemas import ENGINE_EXAMPLE, EngineHealth, RedisHealth

_LONGEST_WAIT_S: Final = 600.0

WaitS = Annotated[
    float | None,
    Field(
        gt=0,
        le=_LONGEST_WAIT_S,
        description="Answer only when every live replica serves the version; 504 after so many seconds.",
    ),
]


class Model(BaseModel):
    model_version: str
    state: str = Field(
        description=(
            "On the replica that answers: published (not loaded), registered, fetching, verifying, loading, warming, "
            "ready, active, restarting, draining, unloaded or failed."
        )
    )
    reason: str | None = Field(None, description="Why it failed.")
    created_at: str | None = None
    published_at: str | None = None
    bytes: int | None = None
    item_count: int | None = None
    metrics: dict[str, dict[str, float]] | None = None
    metrics_of: str | None = Field(None, description="What they were measured on; null: the test set, all users.")
    refitted_from: str | None = Field(
        None, description="The version whose recipe this is, trained on all events; the metrics are that version's."
    )


class Models(BaseModel):
    active_version: str | None
    epoch: int
    previous: list[str] = Field(description="Newest first.")
    models: list[Model]
    redis: RedisHealth


class Step(BaseModel):
    """A state that a version entered on this replica."""

    state: str
    at: float = Field(description="Unix time, seconds.")
    reason: str | None


class ReplicaState(BaseModel):
    """What another replica says of the version."""

    replica: str
    address: str
    state: str | None = Field(description="As in `state` of a model; null: it says nothing of this version.")
    serving: bool = Field(description="Whether it answers with the version.")
    ready: bool = Field(description="Whether it has a warm engine of the version.")


class ModelDetail(Model):
    """One version: what is published, and what replicas do with it."""

    roles: list[str] = Field(description="Any of active, previous, pinned, canary and shadow.")
    since: float | None = Field(None, description="Unix time since which the state is what it is, seconds.")
    retry_at: float | None = Field(
        None, description="Unix time of the next attempt after a failure, seconds; null: none by itself."
    )
    transitions: list[Step] = Field(description="On the replica that answers, oldest first, the newest 32.")
    engine: EngineHealth | None = Field(description="On the replica that answers; null: none of it is ready there.")
    replicas: list[ReplicaState] | None = Field(description="Live replicas; null: Redis does not answer.")


class ActivateRequest(Small):
    """Optional body of an activation."""

    model_config = request_with(if_active="beauty-1", wait_s=60)

    if_active: str | None = Field(None, description="Activate only if this version is active at that moment.")
    wait_s: WaitS = None


class RollbackRequest(Small):
    """Optional body of a rollback: one step back unless it says otherwise."""

    model_config = request_with(to="beauty-1", if_active="beauty-2")

    steps: int = Field(1, ge=1, le=16, description="How many earlier versions to go back.")
    to: str | None = Field(None, max_length=256, description="An earlier version to go back to; instead of `steps`.")
    if_active: str | None = Field(None, description="Go back only if this version is active at that moment.")
    wait_s: WaitS = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.to is not None and "steps" in self.model_fields_set:
            raise PydanticCustomError("two_ways", "must have only one of steps and to")
        return self


class CanaryShare(Small):
    """A version that answers a share of the users."""

    model_config = REQUEST

    version: str = Field(max_length=256)
    percent: float = Field(gt=0, le=100, description="Of the users; the same ones always.")


class TrafficRequest(Small):
    """What gets traffic beside the active version; what is left out or null ends."""

    model_config = request_with(canary={"version": "beauty-3", "percent": 5}, shadow=None)

    canary: CanaryShare | None = None
    shadow: str | None = Field(None, max_length=256, description="A version that is asked too, and never waited for.")


class Deployed(BaseModel):
    """What Redis says from now on; every replica follows as soon as it has loaded what it needs."""

    model_version: str | None = Field(description="The active version.")
    epoch: int = Field(description="Grows by one with every change.")
    previous: list[str] = Field(description="Newest first.")
    pinned: list[str] = Field(description="Versions that an operator wants loaded.")
    canary: CanaryShare | None
    shadow: str | None
    reason: str = Field(description="Of the last change.")
    at: float = Field(description="Unix time of the last change, seconds; 0: there was none.")
    followed_by: list[str] | None = Field(None, description="With `wait_s`: the replicas that serve the version.")


class Replica(BaseModel):
    """What a live replica says of itself, about once a second."""

    replica: str
    address: str
    at: float = Field(description="Unix time of the report, seconds.")
    serving: str | None = Field(description="The version it answers with now; null: none, or two for a moment.")
    roles: list[str] = Field(
        description="Of the version it answers with: any of active, previous, pinned, canary and shadow."
    )
    ready_for: list[str] = Field(description="Versions with a warm engine.")
    epoch: int = Field(description="Of the deployment that it follows.")
    catalog_revision: int = Field(description="That all its engines but a shadow's have applied.")
    states: dict[str, str] = Field(description="Version → state.")
    draining: bool


class Replicas(BaseModel):
    active_version: str | None = Field(description="What each of them is to answer with.")
    replicas: list[Replica]


class Event(BaseModel):
    """One change of what is deployed."""

    at: float = Field(description="Unix time, seconds.")
    epoch: int
    reason: str = Field(description="activate, rollback, automatic rollback: …, traffic, load, unload or delete ….")
    model_version: str | None = Field(description="Active from then on.")
    from_version: str | None = Field(description="Active before.")
    pinned: list[str]
    canary: CanaryShare | None
    shadow: str | None


class Events(BaseModel):
    events: list[Event] = Field(description="Newest first.")


DEPLOYED_EXAMPLE: Final[dict[str, Any]] = {
    "model_version": "beauty-2",
    "epoch": 5,
    "previous": ["beauty-1"],
    "pinned": [],
    "canary": {"version": "beauty-3", "percent": 5.0},
    "shadow": None,
    "reason": "traffic",
    "at": 1790000000.0,
    "followed_by": None,
}
_EVENT = {
    "at": 1790000000.0, "epoch": 4, "reason": "activate", "model_version": "beauty-2", "from_version": "beauty-1",
    "pinned": [], "canary": None, "shadow": None,
}  # fmt: skip
EVENTS_EXAMPLE: Final[dict[str, Any]] = {"events": [_EVENT]}
_REPLICA = {
    "replica": "host-7f3a", "address": "http://127.0.0.1:8000", "at": 1790000001.2, "serving": "beauty-2",
    "roles": ["active"], "ready_for": ["beauty-2", "beauty-3"], "epoch": 5, "catalog_revision": 7,
    "states": {"beauty-2": "active", "beauty-3": "ready"}, "draining": False,
}  # fmt: skip
REPLICAS_EXAMPLE: Final[dict[str, Any]] = {"active_version": "beauty-2", "replicas": [_REPLICA]}
_MODEL = {
    "model_version": "beauty-2", "state": "active", "reason": None, "created_at": "2026-01-02T03:04:05+00:00",
    "published_at": "2026-01-02T03:09:00+00:00", "bytes": 31457280, "item_count": 12101,
    "metrics": {"model": {"recall@10": 0.08}}, "metrics_of": None, "refitted_from": None,
}  # fmt: skip
MODELS_EXAMPLE: Final[dict[str, Any]] = {
    "active_version": "beauty-2",
    "epoch": 5,
    "previous": ["beauty-1"],
    "models": [_MODEL],
    "redis": {"state": "ok", "since": 1790000000.0},
}
MODEL_EXAMPLE: Final[dict[str, Any]] = _MODEL | {
    "roles": ["active"],
    "since": 1790000000.0,
    "retry_at": None,
    "transitions": [
        {"state": "warming", "at": 1789999998.0, "reason": None},
        {"state": "active", "at": 1790000000.0, "reason": None},
    ],
    "engine": ENGINE_EXAMPLE,
    "replicas": [
        {
            "replica": "host-7f3a",
            "address": "http://127.0.0.1:8000",
            "state": "active",
            "serving": True,
            "ready": True,
        }
    ],
}
