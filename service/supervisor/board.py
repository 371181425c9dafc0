"""What the supervisor knows and every worker is told, in one immutable `Status`."""

import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, Literal

import msgspec

from service.api.control import ModelState, Status, Transition

RedisState = Literal["ok", "unreachable", "lost"]

_KEPT_TRANSITIONS: Final = 32  # of one version
_KEPT_VERSIONS: Final = 32
KEPT_UNPLACED: Final = 2000  # every worker is told them again with every change of anything
_OVER: Final = frozenset({"unloaded", "failed"})


class Board:
    """Every change is told at once to whoever listens."""

    def __init__(self, replica: str = "") -> None:
        self.status = Status(stale_since=None, replica=replica)
        self.listeners: list[Callable[[Status], None]] = []
        self.serving_version: str | None = None

    def redis(self, state: RedisState, reason: str | None = None) -> None:
        if state != self.status.redis:
            self._change(redis=state, redis_reason=reason, redis_since=time.time())

    def redis_refusal(self, reason: str | None) -> None:
        """Why Redis refuses what this replica writes; None: it does not, or does not answer at all."""
        if reason != self.status.redis_refusal:
            self._change(redis_refusal=reason)

    def wanted(self, version: str | None, epoch: int) -> None:
        """Redis says `version`."""
        self._change(active_version=version, active_epoch=epoch)

    def serving(self, version: str | None) -> None:
        """`version` answers from now on; None: nothing does, or not every worker sends its queries to the same."""
        before, self.serving_version = self.serving_version, version
        if version is not None:
            self.model(version, "active")
        if version != before:
            self._change()

    def model(
        self,
        version: str,
        state: str,
        reason: str | None = None,
        retry_in_s: float | None = None,
        note: str | None = None,
    ) -> None:
        """One step of a version. A `reason` is a failure's; a `note` says why the step was taken."""
        now = time.time()
        before = self.status.model(version)
        retry_at = None if retry_in_s is None else now + retry_in_s
        if before and (before.state, before.reason, before.retry_at) == (state, reason, retry_at):
            return
        steps = (*(before.transitions if before else ()), Transition(state, now, reason or note))
        row = ModelState(version, state, now, reason, retry_at, steps[-_KEPT_TRANSITIONS:])
        others = tuple(model for model in self.status.models if model.version != version)
        self._change(models=_newest((*others, row)))

    def catalog(self, revision: int, era: str, unplaced: dict[str, str]) -> None:
        """What all engines but a shadow's have applied; what the serving one could not take in, in order of change."""
        newest = dict(islice(reversed(unplaced.items()), KEPT_UNPLACED))
        news = {"catalog_revision": revision, "catalog_era": era, "unplaced": newest, "unplaced_count": len(unplaced)}
        if any(getattr(self.status, name) != value for name, value in news.items()):
            self._change(**news)

    def catalog_lost(self, lost: bool) -> None:
        """Whether Redis has lost the changes of the catalog that are obeyed here."""
        if lost != self.status.catalog_lost:
            self._change(catalog_lost=lost)

    def catalog_unknown(self, reason: str | None) -> None:
        """Why nobody knows what is hidden, so that nothing may be served; None: it is known, or Redis is to tell."""
        if reason != self.status.catalog_unknown:
            self._change(catalog_unknown=reason)

    def swap(self, result: Literal["success", "failure", "rolled_back"]) -> None:
        swaps = self.status.swaps
        self._change(swaps=swaps | {result: swaps.get(result, 0) + 1})

    def restart(self) -> None:
        self._change(engine_restarts=self.status.engine_restarts + 1)

    def drain(self) -> None:
        self._change(draining=True)

    def _change(self, **fields: Any) -> None:
        status = msgspec.structs.replace(self.status, **fields)
        self.status = msgspec.structs.replace(status, stale_since=self._stale_since(status))
        for listener in self.listeners:
            listener(self.status)

    def _stale_since(self, status: Status) -> float | None:
        """None while Redis confirms that what serves is what should."""
        if status.redis == "ok" and self.serving_version == status.active_version:
            return None
        return status.stale_since if status.stale_since is not None else time.monotonic()


def _newest(rows: tuple[ModelState, ...]) -> tuple[ModelState, ...]:
    """Everything that lives, and of what is over as much as there is room for."""
    surplus = len(rows) - _KEPT_VERSIONS
    over = [row for row in rows if row.state in _OVER][: max(0, surplus)]
    return tuple(row for row in rows if row not in over)
