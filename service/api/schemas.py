"""What clients send and receive, as OpenAPI shows it.

Requests are validated by these models. Answers are built by `answers`, which does no pydantic work per item; the answer
models here only describe them, and the tests hold the two together.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Part = Literal["metadata", "codes", "scores", "timings"]

_LARGEST_K = 1_000_000  # fits every integer on the way; the model's largest beam decides

_REQUEST_EXAMPLE: dict[str, JsonValue] = {
    "history": ["B000052YAN", "B00005NDUC", "B0009RF9DW"],
    "k": 5,
    "exclude": ["B001MA0QY2"],
    "return": ["metadata", "scores"],
}
_ANSWER_EXAMPLE: dict[str, JsonValue] = {
    "request_id": "6f1c0c1b6a0b4d0f8f0a5a2a4a8f9b1e",
    "model_version": "beauty-2",
    "catalog_revision": 0,
    "items": [{"rank": 1, "item_id": "B000142FVW", "score": -3.21, "metadata": {"title": "Hydrating mask"}}],
    "exhausted": False,
    "source": "model",
    "history": {"used": 3, "unknown": 0, "truncated": 0},
    "warnings": [],
}


class RecommendRequest(BaseModel):
    """A user's history, and what is wanted back."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra={"example": _REQUEST_EXAMPLE})

    history: list[str] = Field(
        description="Item ids, oldest first; unknown ids are counted and skipped, popular items answer if all are."
    )
    k: int = Field(10, ge=1, le=_LARGEST_K, description="How many items; at most the model's largest beam width.")
    exclude: list[str] = Field([], description="Item ids that must not come back.")
    exclude_seen: bool = Field(True, description="Whether the items of the history must not come back.")
    user_id: str | None = Field(None, max_length=256, description="Names the user; the answer does not depend on it.")
    beam_width: int | None = Field(
        None, ge=1, le=_LARGEST_K, description="Beams the search keeps, rounded up to a width the model has."
    )
    timeout_ms: int | None = Field(None, ge=1, description="After this long the answer is 504.")
    parts: list[Part] = Field([], alias="return", description="Optional parts of the answer.")


class Scores(BaseModel):
    model_config = ConfigDict(extra="forbid")

    code: float = Field(description="Log-probability of the item's code.")
    item: float = Field(description="What rescoring added.")


class RecommendedItem(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rank: int = Field(description="1 is the best.")
    item_id: str
    score: float = Field(description="What the order follows; comparable within one answer only.")
    metadata: dict[str, Any] | None = Field(None, description="With `return: metadata`.")
    code: list[int] | None = Field(None, description="The item's tokens, with `return: codes`.")
    scores: Scores | None = Field(None, description="With `return: scores`, where the model answered.")


class HistoryUse(BaseModel):
    model_config = ConfigDict(extra="forbid")

    used: int = Field(description="Items that the model read.")
    unknown: int = Field(description="Items that are not in the catalog.")
    truncated: int = Field(description="Known items older than the model reads.")


class Timings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    queue: float
    batch: float
    run: float
    total: float = Field(description="From the request's headers on.")
    batch_rows: int = Field(description="Requests that shared the run.")


class RecommendAnswer(BaseModel):
    """Recommendations, best first, of one model version."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _ANSWER_EXAMPLE})

    request_id: str
    model_version: str
    catalog_revision: int
    items: list[RecommendedItem]
    exhausted: bool = Field(description="Fewer than `k` legal items exist, and all of them are here.")
    source: Literal["model", "popular"]
    history: HistoryUse
    timings_ms: Timings | None = Field(None, description="With `return: timings`.")
    warnings: list[str]


class Live(BaseModel):
    status: Literal["live"] = "live"


class RedisHealth(BaseModel):
    state: Literal["ok", "unreachable", "lost", "unknown"]
    since: float | None = Field(description="Unix time of the last change, seconds.")


class EngineHealth(BaseModel):
    provider: str
    item_count: int
    beam_widths: list[int]
    load_s: float
    warm_s: float


class VersionFailure(BaseModel):
    model_version: str
    reason: str
    retry_at: float | None = Field(description="Unix time of the next attempt, seconds.")


class Ready(BaseModel):
    """Whether this replica can answer, and what is not as it should be."""

    status: Literal["ready", "degraded", "not_ready"]
    reasons: list[str] = Field(description="Why it is not ready; empty when it is.")
    notes: list[str] = Field(description="What is wrong while it answers.")
    model_version: str | None = Field(description="What answers now.")
    active_version: str | None = Field(description="What Redis says should.")
    staleness_s: float = Field(description="For how long the model may have been behind Redis.")
    redis: RedisHealth
    engine: EngineHealth | None
    failures: list[VersionFailure]


class Model(BaseModel):
    model_version: str
    state: str = Field(
        description="published, fetching, loading, active, restarting, draining or failed, on the replica that answers."
    )
    reason: str | None = Field(None, description="Why it failed.")
    created_at: str | None = None
    published_at: str | None = None
    bytes: int | None = None
    item_count: int | None = None
    metrics: dict[str, dict[str, float]] | None = None


class Models(BaseModel):
    active_version: str | None
    epoch: int
    previous: list[str] = Field(description="Newest first.")
    models: list[Model]
    redis: RedisHealth


class Version(BaseModel):
    service: str
    python: str
    onnxruntime: str
    model_version: str | None


class ActivateRequest(BaseModel):
    """Optional body of an activation."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"example": {"if_active": "beauty-1"}})

    if_active: str | None = Field(None, description="Activate only if this version is active at that moment.")


class Activated(BaseModel):
    """What Redis says from now on; every replica follows as soon as it has loaded the version."""

    model_version: str
    epoch: int
    previous: list[str]


class FieldProblem(BaseModel):
    pointer: str = Field(description="JSON pointer (RFC 6901) into the request's body.")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    code: str = Field(description="Stable, for programs.")
    detail: str = Field(description="One sentence, for people.")
    request_id: str
    errors: list[FieldProblem] | None = Field(None, description="The wrong fields of a 422.")
    active: str | None = Field(None, description="What is active, with a lost race (409).")
