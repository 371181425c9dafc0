"""Which versions serve, and how: changed by compare-and-set inside Redis, so that no two operators undo each other."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from uuid import uuid4

from ..errors import BadRequest, FieldError, LostRace, NoPrevious, ServiceError, StoreCorrupt, UnknownVersion
from .connection import Connection
from .deployment_script import CHANGE, FIELDS, RESTORE, UNCHANGED
from .keys import Keys
from .records import check_known

KEPT_PREVIOUS: Final = 16
KEPT_EVENTS: Final = 1000
AUTOMATIC: Final = "automatic rollback"  # how the reason of a rollback begins that no person asked for


class Unconditional(Enum):
    """The type of `ANY`, since None already means "nothing is active"."""

    ANY = "any"


class Unchanged(Enum):
    """The type of `KEEP`, since None already means "none"."""

    KEEP = "keep"


ANY: Final = Unconditional.ANY
KEEP: Final = Unchanged.KEEP


@dataclass(frozen=True)
class Canary:
    """A version that answers a share of the users."""

    version: str
    percent: float  # above 0, at most 100


@dataclass(frozen=True)
class Deployment:
    """Which version serves, and which others do something beside it."""

    version: str | None  # None: versions are loaded, and none serves yet
    epoch: int  # grows by one with every change of anything here
    previous: tuple[str, ...] = ()  # newest first
    pinned: tuple[str, ...] = ()  # what an operator wants loaded
    canary: Canary | None = None
    shadow: str | None = None  # asked too, and never waited for
    reason: str = "activate"  # activate, rollback, automatic rollback: …, traffic, load, unload, delete …
    at: float = field(default=0.0, compare=False)  # Unix time of the change, seconds, by the clock of Redis

    @property
    def roles(self) -> frozenset[str]:
        """Every version that serves, shares, shadows or is pinned."""
        named = {self.version, self.shadow, self.canary.version if self.canary else None, *self.pinned}
        return frozenset(name for name in named if name is not None)

    def roles_of(self, version: str | None) -> list[str]:
        """Any of active, previous, pinned, canary and shadow."""
        has = {
            "active": version == self.version,
            "previous": version in self.previous,
            "pinned": version in self.pinned,
            "canary": self.canary is not None and version == self.canary.version,
            "shadow": version == self.shadow,
        }
        return [role for role, holds in has.items() if holds and version is not None]


@dataclass(frozen=True)
class Event:
    """One change of the deployment: what it was from then on, and what had served before."""

    deployment: Deployment  # without `previous`
    from_version: str | None

    @property
    def automatic(self) -> bool:
        """Whether replicas rolled `from_version` back by themselves; the reason says why."""
        return self.deployment.reason.startswith(AUTOMATIC)


@dataclass(frozen=True)
class Deployments:
    """Reads and changes the deployment of one namespace."""

    redis: Connection
    keys: Keys

    def read(self) -> Deployment | None:
        """None where there is none. Raises StoreUnavailable, StoreCorrupt."""
        found: dict[bytes, bytes] = self.redis.ask(lambda client: client.hgetall(self.keys.active))
        if not found:
            return None
        try:
            for required in (b"version", b"epoch", b"previous"):
                _ = found[required]
            return _deployment({name.decode(): value.decode() for name, value in found.items()})
        except (KeyError, ValueError):
            raise StoreCorrupt("what Redis holds as the active version is damaged; activate one again") from None

    def events(self, limit: int) -> list[Event]:
        """The newest `limit` changes, newest first. Raises StoreUnavailable, StoreCorrupt."""
        found = self.redis.ask(lambda client: client.xrevrange(self.keys.events, count=max(1, limit)))
        try:
            return [_event(entry.decode(), values) for entry, values in found][: max(0, limit)]
        except ValueError:
            raise StoreCorrupt("the history of deployments in Redis is damaged") from None

    def activate(self, version: str, if_active: str | Unconditional | None, reason: str) -> Deployment:
        check_known(version)
        return self._change("activate", version, reason, if_active)

    def rollback(self, steps: int, to: str | None, if_active: str | Unconditional | None, reason: str) -> Deployment:
        if to is not None:
            check_known(to)
        elif steps < 1:
            raise BadRequest(f"{steps} steps back lead nowhere", [_wrong("/steps", "must be at least 1")])
        return self._change("rollback", to or "", reason, if_active, steps=steps)

    def pin(self, version: str) -> Deployment:
        check_known(version)
        return self._change("pin", version, "load")

    def unpin(self, version: str) -> Deployment:
        check_known(version)
        return self._change("unpin", version, "unload")

    def set_traffic(self, canary: Canary | Unchanged | None, shadow: str | Unchanged | None) -> Deployment:
        if isinstance(canary, Canary):
            check_known(canary.version)
            _check_percent(canary.percent)
        if isinstance(shadow, str):
            check_known(shadow)
        return self._change("traffic", "", "traffic", canary=canary, shadow=shadow)

    def restore(self, deployment: Deployment) -> bool:
        keys = [self.keys.active, self.keys.events]
        held = [deployment.version or "", deployment.epoch, ",".join(deployment.previous), ",".join(deployment.pinned)]
        held += [*_canary_values(deployment.canary), deployment.shadow or "", deployment.reason]
        values = [self.keys.changes, uuid4().hex, KEPT_EVENTS, *held]
        return bool(self.redis.ask(lambda client: client.eval(RESTORE, len(keys), *keys, *values)) == b"ok")

    def _change(
        self,
        move: str,
        name: str,
        reason: str,
        if_active: str | Unconditional | None = ANY,
        *,
        steps: int = 1,
        canary: Canary | Unchanged | None = KEEP,
        shadow: str | Unchanged | None = KEEP,
    ) -> Deployment:
        keys = [self.keys.active, self.keys.versions, self.keys.events]
        condition = ["any", ""] if isinstance(if_active, Unconditional) else ["if", if_active or ""]
        traffic = [*_canary_values(canary), UNCHANGED if isinstance(shadow, Unchanged) else shadow or ""]
        values = [self.keys.changes, uuid4().hex, move, name, *condition, reason, steps, *traffic]
        values += [KEPT_PREVIOUS, KEPT_EVENTS]
        answer = self.redis.ask(lambda client: client.eval(CHANGE, len(keys), *keys, *values))
        word, detail, *held = (value.decode() for value in answer)
        deployment = _deployment(dict(zip(FIELDS, held, strict=True)))
        if word == "ok":
            return deployment
        raise _refusal(word, detail, name, deployment)


def _canary_values(canary: Canary | Unchanged | None) -> list[str]:
    if isinstance(canary, Unchanged):
        return [UNCHANGED, ""]
    return [canary.version, repr(float(canary.percent))] if canary else ["", ""]


def _check_percent(percent: float) -> None:
    if not (math.isfinite(percent) and 0 < percent <= 100):
        reason = "must be above 0 and at most 100"
        raise BadRequest(f"the canary's percent is {percent:g}; it {reason}", [_wrong("/canary/percent", reason)])


def _deployment(held: Mapping[str, str]) -> Deployment:
    """From the fields of the hash, which lacks all but the first three where an earlier program wrote it."""
    canary = held.get("canary", "")
    return Deployment(
        version=held["version"] or None,
        epoch=int(held["epoch"]),
        previous=_names(held.get("previous", "")),
        pinned=_names(held.get("pinned", "")),
        canary=Canary(canary, float(held["percent"])) if canary else None,
        shadow=held.get("shadow") or None,
        reason=held.get("reason") or "activate",
        at=float(held.get("at") or 0.0),
    )


def _event(entry: str, values: dict[bytes, bytes]) -> Event:
    held = {name.decode(): value.decode() for name, value in values.items()}
    milliseconds = int(entry.partition("-")[0])
    held = {"reason": held.get("event", ""), "at": str(milliseconds / 1000), "version": "", "epoch": "0"} | held
    return Event(_deployment(held), held.get("from") or None)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _wrong(pointer: str, detail: str) -> FieldError:
    return FieldError(pointer=pointer, detail=detail)


def _refusal(word: str, detail: str, name: str, now: Deployment) -> ServiceError:
    if word == "lost":
        found = f"version {now.version}" if now.version else "nothing"
        return LostRace(f"another change came first: {found} is active now", now.version)
    if word == "none":
        return NoPrevious(_no_previous(name, int(detail), now))
    if word == "unknown":
        return UnknownVersion(f"no version named {detail!r} is published")
    return _bad_traffic(word, detail)


def _no_previous(name: str, left: int, now: Deployment) -> str:
    if name:
        return f"version {name} is not among those that served before: {', '.join(now.previous) or 'there are none'}"
    if left:
        return f"only {left} earlier version{'s are' if left > 1 else ' is'} left to roll back to"
    return "no earlier version is left to roll back to"


def _bad_traffic(word: str, role: str) -> BadRequest:
    reason = {
        "idle": "no version is active, so there are no answers to share",
        "active": f"the active version cannot be its own {role}",
        "both": "one version cannot be canary and shadow at once",
    }[word]
    return BadRequest(reason, [_wrong("/canary/version" if role == "canary" else "/shadow", reason)])
