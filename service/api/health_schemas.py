"""What probes, and those who ask what runs here, receive."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

ENGINE_EXAMPLE: Final[dict[str, JsonValue]] = {
    "provider": "CPUExecutionProvider",
    "precision": "int8",
    "golden_overlap": 0.98,
    "item_count": 12101,
    "beam_widths": [10, 50],
    "filter_slots": 1023,
    "load_s": 0.6,
    "warm_s": 1.1,
}
_READY: Final[dict[str, JsonValue]] = {
    "status": "degraded",
    "reasons": [],
    "notes": ["model beauty-3 is being loaded, beauty-2 answers meanwhile"],
    "model_version": "beauty-2",
    "active_version": "beauty-3",
    "canary_version": None,
    "shadow_version": None,
    "staleness_s": 1.25,
    "redis": {"state": "ok", "since": 1790000000.0},
    "engine": ENGINE_EXAMPLE,
    "failures": [],
}
_VERSION: Final[dict[str, JsonValue]] = {
    "service": "0.1.0",
    "python": "3.12.8",
    "onnxruntime": "1.31.1",
    "provider": "CPUExecutionProvider",
    "precision": "fp32",
    "model_version": "beauty-2",
    "catalog_revision": 7,
    "codes": {"length": 3, "tokens_per_level": 256},
    "limits": {
        "body_bytes": 1048576,
        "catalog_body_bytes": 16777216,
        "history_items": 10000,
        "exclude_items": 10000,
        "filter_values": 1000,
        "batch_requests": 100,
        "catalog_items": 1000,
        "k": 50,
        "beam_widths": [10, 50],
        "default_timeout_ms": 10000,
        "max_timeout_ms": 60000,
        "queue": 1024,
        "batch_rows": 64,
    },
}


class Live(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"status": "live"}})

    status: Literal["live"] = "live"


class RedisHealth(BaseModel):
    state: Literal["ok", "unreachable", "lost", "unknown"]
    since: float | None = Field(description="Unix time of the last change, seconds.")


class EngineHealth(BaseModel):
    provider: str
    precision: str = Field(description="What the network's products are computed in: fp32, as exported, int8 or fp16.")
    golden_overlap: float = Field(
        description="Share of the items that fp32 recorded for the golden requests at export which this engine finds."
    )
    item_count: int
    beam_widths: list[int]
    filter_slots: int = Field(description="Filters that it can keep compiled at once.")
    load_s: float
    warm_s: float


class VersionFailure(BaseModel):
    model_version: str
    reason: str
    retry_at: float | None = Field(description="Unix time of the next attempt, seconds; null: none by itself.")


class Ready(BaseModel):
    """Whether this replica can answer, and what is not as it should be."""

    model_config = ConfigDict(json_schema_extra={"example": _READY})

    status: Literal["ready", "degraded", "not_ready"]
    reasons: list[str] = Field(description="Why it is not ready; empty when it is.")
    notes: list[str] = Field(description="What is wrong while it answers.")
    model_version: str | None = Field(description="What answers now.")
    active_version: str | None = Field(description="What Redis says should.")
    canary_version: str | None = Field(description="What answers a share of the users now.")
    shadow_version: str | None = Field(description="What is asked too, and not waited for.")
    staleness_s: float = Field(description="For how long the model may have been behind Redis.")
    redis: RedisHealth
    engine: EngineHealth | None
    failures: list[VersionFailure]


class CodeShape(BaseModel):
    length: int = Field(description="Tokens of one code.")
    tokens_per_level: int


class Limits(BaseModel):
    """What is refused above it. Null: unknown while no model is loaded."""

    body_bytes: int
    catalog_body_bytes: int = Field(description="Of one change of the catalog.")
    history_items: int
    exclude_items: int
    filter_values: int = Field(description="Values in the filter of one request, and ids in `include_items`.")
    batch_requests: int = Field(description="Requests in one `POST /recommend/batch`.")
    catalog_items: int = Field(description="Items in one change of the catalog.")
    k: int | None = Field(description="The model's largest beam width.")
    beam_widths: list[int] | None
    default_timeout_ms: int
    max_timeout_ms: int
    queue: int = Field(description="Requests waiting in an engine, and half as many for their filters; above it 429.")
    batch_rows: int = Field(description="Requests that an engine runs together.")


class Version(BaseModel):
    """What runs here."""

    model_config = ConfigDict(json_schema_extra={"example": _VERSION})

    service: str
    python: str
    onnxruntime: str
    provider: str | None = Field(description="What computes: CPUExecutionProvider or CUDAExecutionProvider.")
    precision: str | None = Field(description="What the network's products are computed in: fp32, int8 or fp16.")
    model_version: str | None
    catalog_revision: int
    codes: CodeShape | None
    limits: Limits
