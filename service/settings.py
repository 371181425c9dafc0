"""Every setting of a replica, read once from the environment at the edge of the program.

`PROREC_PORT=9000 python -m service` sets `port`; an empty variable counts as unset.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from .cores import parse
from .errors import SettingsError

PREFIX: Final = "PROREC_"
_SECRETS: Final = frozenset({"redis_url", "admin_token"})  # their values are never printed


class Settings(BaseSettings):
    """Settings of one replica. `Settings()` raises SettingsError, which names the variable and its bad value."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", allow_inf_nan=False
    )

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535, description="0: any free port")
    workers: int = Field(1, ge=1, le=256, description="HTTP processes; an engine is one more")
    redis_url: str | None = Field(None, repr=False, description="none: an embedded server in `data_dir`")
    data_dir: Path = Path("var")
    namespace: str = Field("prorec", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="first part of every Redis key")
    admin_token: str | None = Field(None, repr=False, description="none: the admin interface is off")
    max_history: int = Field(10_000, ge=1, description="history items of one request")
    max_exclude: int = Field(10_000, ge=0, description="excluded items of one request")
    max_body_bytes: int = Field(1_048_576, ge=1)
    max_catalog_body_bytes: int = Field(16_777_216, ge=1, description="of one change of the catalog")
    max_batch_requests: int = Field(100, ge=1, description="requests in one POST /recommend/batch")
    max_filter_values: int = Field(1000, ge=1, description="values in one filter, and ids in `include_items`")
    max_catalog_items: int = Field(1000, ge=1, description="items in one change of the catalog")
    default_timeout_ms: int = Field(10_000, ge=1, description="of a request that names none")
    max_timeout_ms: int = Field(60_000, ge=1)
    queue_limit: int = Field(
        1024, ge=1, description="requests waiting in an engine, and half as many for their filters; above it 429"
    )
    max_batch_rows: int = Field(64, ge=1)
    engine_threads: int = Field(
        0, ge=0, description="cores a batch is searched on, each a part of its rows; 0: all physical ones"
    )
    engine_cores: str | None = Field(
        None, description="for engines alone, such as 2-7 or 0,2; none: all share all cores"
    )
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    cuda_graphs: bool = Field(True, description="on a GPU, each shape of batch is captured once and then replayed")
    precision: Literal["fp32", "int8", "fp16"] = Field(
        "fp32", description="int8 on the CPU, fp16 on a GPU: faster, answers differ a little"
    )
    precision_overlap_percent: float = Field(
        90.0, ge=0, le=100, description="of the golden requests' items a model must find in another precision than fp32"
    )
    poll_interval_s: float = Field(1.0, gt=0, description="how often Redis is asked what is active")
    warm_previous: int = Field(1, ge=0, description="earlier versions whose engines stay loaded, for instant rollback")
    warm_memory_percent: float = Field(
        20.0, ge=0, le=100, description="they are ended where less of the memory is available"
    )
    filter_cache_bytes: int = Field(268_435_456, ge=1_048_576, description="compiled filters of one engine")
    spare_items: int = Field(65_536, ge=0, description="items that can be added live to one model")
    rollback_window_s: float = Field(0.0, ge=0, description="watch a new version that long; 0: no automatic rollback")
    rollback_error_percent: float = Field(5.0, ge=0, le=100, description="of its answers; above it roll back")
    rollback_exhausted_percent: float = Field(
        50.0, ge=0, le=100, description="of its answers, more than under the version before; above it roll back"
    )
    rollback_min_requests: int = Field(100, ge=1, description="answers before a rate counts")
    drain_notice_s: float = Field(
        0.3, ge=0, description="between readiness that goes off and connections that are refused"
    )
    drain_timeout_s: float = Field(30.0, ge=0, description="how long requests in flight may take at the end")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(_sentence(detail) for detail in error.errors())) from None

    @property
    def filter_queue_limit(self) -> int:
        """Queries that may wait in an engine for their filters: all ready at once, they take half of its queue."""
        return max(1, self.queue_limit // 2)

    @property
    def in_flight_limit(self) -> int:
        """Requests that a worker hands on at once: what an engine's batch, its queue and its filters hold."""
        return self.max_batch_rows + self.queue_limit + self.filter_queue_limit

    @field_validator("admin_token")
    @classmethod
    def _token_fits_a_header(cls, value: str | None) -> str | None:
        if value is not None and not (value.isascii() and value.isprintable() and value == value.strip()):
            raise ValueError(
                "must be printable ASCII that neither begins nor ends with a space: no other fits a header"
            )
        return value

    @field_validator("engine_cores")
    @classmethod
    def _cores_are_listed(cls, value: str | None) -> str | None:
        if value is not None:
            parse(value)
        return value

    @model_validator(mode="after")
    def _default_timeout_fits(self) -> Self:
        if self.default_timeout_ms > self.max_timeout_ms:
            default, limit = f"DEFAULT_TIMEOUT_MS={self.default_timeout_ms}", f"MAX_TIMEOUT_MS={self.max_timeout_ms}"
            raise ValueError(f"{PREFIX}{default} is above {PREFIX}{limit}")
        return self


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """One sentence for each variable that looks like a setting but is none: a misspelt one would do nothing, silently.

    Settings are read whatever the case of their letters, and so are these.
    Kubernetes itself sets some (`PROREC_SERVICE_HOST`) where a Service is called `prorec`, so they are no error.
    """
    known = [variable(name) for name in Settings.model_fields]
    found = sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)
    return [f"{name} is not a setting{_guess(name.upper(), known)}" for name in found]


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def _guess(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""


def _sentence(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    shown = "" if name in _SECRETS else f"={detail['input']}"
    hint = ""
    if name == "port" and str(detail["input"]).startswith("tcp://"):
        # Kubernetes overwrites PROREC_PORT where a Service is called `prorec`.
        hint = " (set `enableServiceLinks: false` in the pod)"
    return f"{variable(name)}{shown}: {message[0].lower()}{message[1:]}{hint}"
