"""Which replicas live, and what each of them serves, as they say themselves."""

import time
from dataclasses import dataclass
from typing import Final

import msgspec

from ..errors import NotFollowed
from .connection import Connection
from .deployment import Deployment, Deployments
from .keys import Keys

LIVE_S: Final = 5.0  # a replica that has said nothing for longer is gone
_FORGOTTEN_S: Final = 10.0
_AHEAD_S: Final = 2.0  # the clock of Redis may go back, as with a failover; whoever lives reports again within a second
_LOOK_EVERY_S: Final = 0.1
_APPEAR_S: Final = 2.0  # a replica that has just lost and found Redis reports again within that time


class ReplicaReport(msgspec.Struct, frozen=True):
    """What a replica says of itself, about once a second."""

    replica: str  # its id, new with every start
    address: str  # where it answers, as people may open it
    epoch: int  # of the deployment that it follows
    serving: str | None = None  # version that answers
    ready_for: tuple[str, ...] = ()  # versions with a warm engine: they could answer at once
    catalog_revision: int = 0  # that all its engines but a shadow's have applied
    states: dict[str, str] = {}  # version → state, as in `ModelState`
    draining: bool = False
    at: float = 0.0  # Unix time of the report by the clock of Redis, seconds


# Times are those of Redis: replicas' own clocks may differ. What is forgotten goes with the next report of any replica.
_REPORT = """
local time = redis.call('TIME')
local held = redis.call('HGETALL', KEYS[1])
for at = 1, #held, 2 do
  local told = tonumber(string.match(held[at + 1], '^[%d.]+') or '0')
  local age = tonumber(time[1]) - told
  if age > tonumber(ARGV[3]) or age < -tonumber(ARGV[4]) then redis.call('HDEL', KEYS[1], held[at]) end
end
local now = string.format('%d.%06d', tonumber(time[1]), tonumber(time[2]))
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
return now
"""
_LIVE = """
local time = redis.call('TIME')
return {string.format('%d.%06d', tonumber(time[1]), tonumber(time[2])), redis.call('HVALS', KEYS[1])}
"""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ReplicaReport)


@dataclass(frozen=True)
class Replicas:
    """Reads and writes the reports of one namespace."""

    redis: Connection
    keys: Keys

    def report(self, report: ReplicaReport) -> None:
        values = [report.replica, _encoder.encode(report), _FORGOTTEN_S, _AHEAD_S]
        self.redis.ask(lambda client: client.eval(_REPORT, 1, self.keys.replicas, *values))

    def leave(self, replica: str) -> None:
        self.redis.ask(lambda client: client.hdel(self.keys.replicas, replica))

    def live(self) -> list[ReplicaReport]:
        """By address and id."""
        now, held = self.redis.ask(lambda client: client.eval(_LIVE, 1, self.keys.replicas))
        reports = [report for value in held if (report := _read(value)) is not None]
        live = [report for report in reports if -_AHEAD_S <= float(now) - report.at <= LIVE_S]
        return sorted(live, key=lambda report: (report.address, report.replica))

    def wait_until_active(self, version: str, timeout_s: float) -> list[ReplicaReport]:
        """Errors as in `Store.wait_until_active`."""
        began = time.monotonic()
        deployments = Deployments(self.redis, self.keys)
        first = deployments.read()
        while True:
            live = [report for report in self.live() if not report.draining]
            behind = [report for report in live if not _follows(report, version, first)]
            if live and not behind:
                return live
            waited_s = time.monotonic() - began
            _check_still_active(version, deployments.read())
            if waited_s >= (timeout_s if live else min(timeout_s, _APPEAR_S)):
                raise NotFollowed(_sentence(version, behind, len(live)), [report.replica for report in behind])
            time.sleep(min(_LOOK_EVERY_S, max(0.0, timeout_s - waited_s)))


def _read(value: bytes) -> ReplicaReport | None:
    """None for what another program wrote: one replica more or less is no reason to fail."""
    at, _, body = value.partition(b" ")
    try:
        return msgspec.structs.replace(_decoder.decode(body), at=float(at))
    except (msgspec.MsgspecError, ValueError):
        return None


def _follows(report: ReplicaReport, version: str, deployment: Deployment | None) -> bool:
    """A report from before the change does not count, even if it names the version."""
    return report.serving == version and (deployment is None or report.epoch >= deployment.epoch)


def _check_still_active(version: str, now: Deployment | None) -> None:
    if now is not None and now.version != version:
        active = f"version {now.version} is active now" if now.version else "no version is active"
        raise NotFollowed(f"replicas do not go on to version {version}: {active} ({now.reason})")


def _sentence(version: str, behind: list[ReplicaReport], count: int) -> str:
    if not count:
        return f"no replica is running, so none answers with version {version} yet; those that start will"
    named = "; ".join(f"{one.replica} at {one.address}: {_doing(version, one)}" for one in behind)
    return f"{len(behind)} of {count} replicas do not serve version {version} yet: {named}"


def _doing(version: str, report: ReplicaReport) -> str:
    return f"{report.states.get(version, 'unknown')}, {report.serving or 'nothing'} answers"
