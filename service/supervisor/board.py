"""What the supervisor knows and every worker is told, in one immutable `Status`."""

import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from service.api.control import ModelState, Status

RedisState = Literal["ok", "unreachable", "lost"]


class Board:
    """Every change is told at once to whoever listens."""

    def __init__(self) -> None:
        self.status = Status(stale_since=None)
        self.listener: Callable[[Status], None] | None = None
        self.serving_version: str | None = None

    def redis(self, state: RedisState, reason: str | None = None) -> None:
        if state != self.status.redis:
            self._change(redis=state, redis_reason=reason, redis_since=time.time())

    def wanted(self, version: str, epoch: int) -> None:
        """Redis says `version`. What was wanted before and failed is forgotten."""
        kept = tuple(model for model in self.status.models if model.version == version or not model.reason)
        self._change(active_version=version, active_epoch=epoch, models=kept)

    def serving(self, version: str) -> None:
        """`version` answers from now on."""
        self.serving_version = version
        self.model(version, "active")

    def model(self, version: str, state: str, reason: str | None = None, retry_in_s: float | None = None) -> None:
        now = time.time()
        row = ModelState(version, state, now, reason, None if retry_in_s is None else now + retry_in_s)
        self._change(models=(*self._others(version), row))

    def forget(self, version: str) -> None:
        """Nothing is done with `version` any more."""
        self._change(models=self._others(version))

    def swap(self, result: Literal["success", "failure"]) -> None:
        swaps = self.status.swaps
        self._change(swaps=swaps | {result: swaps.get(result, 0) + 1})

    def restart(self) -> None:
        self._change(engine_restarts=self.status.engine_restarts + 1)

    def drain(self) -> None:
        self._change(draining=True)

    def _others(self, version: str) -> tuple[ModelState, ...]:
        return tuple(model for model in self.status.models if model.version != version)

    def _change(self, **fields: Any) -> None:
        status = msgspec.structs.replace(self.status, **fields)
        self.status = msgspec.structs.replace(status, stale_since=self._stale_since(status))
        if self.listener:
            self.listener(self.status)

    def _stale_since(self, status: Status) -> float | None:
        """None while Redis confirms that what serves is what should."""
        if status.redis == "ok" and self.serving_version == status.active_version:
            return None
        return status.stale_since if status.stale_since is not None else time.monotonic()
