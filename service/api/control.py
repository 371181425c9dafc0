"""What the supervisor and its HTTP workers say to each other; frames as in `service.frames`.

The supervisor pushes `Routes` (where queries go from now on) and `Status` (what it knows of Redis and of the models).
A worker acknowledges every `Routes` once no new query of its own can reach the engine before.
"""

import asyncio
import time

import msgspec

from service.frames import EngineInfo, framed, read_frame


class Route(msgspec.Struct, frozen=True):
    """An engine that is ready."""

    socket: str  # path of its Unix socket
    info: EngineInfo


class Routes(msgspec.Struct, tag="routes", frozen=True):
    """Where queries go, all in one message, so that a worker switches in one step."""

    epoch: int  # grows with every message
    route: Route | None  # the version that serves; None: nothing is loaded
    others: tuple[Route, ...] = ()  # other versions that may be asked for by name
    canary: str | None = None  # version of `others` that gets a share of the users
    canary_percent: float = 0.0
    shadow: Route | None = None  # an engine of low priority that is asked too, and never waited for
    reader: Route | None = None  # answers what is asked about items; of the version that serves


class Transition(msgspec.Struct, frozen=True, array_like=True):
    """One step of a version on this replica."""

    state: str
    at: float  # Unix time, seconds
    reason: str | None = None


class ModelState(msgspec.Struct, frozen=True):
    """What this replica does, or last did, with one version.

    States: registered → fetching → verifying → loading → warming → ready → active → draining → unloaded, and from any
    of them failed; active → restarting while a successor of a dead engine starts.
    """

    version: str
    state: str
    since: float  # Unix time, seconds
    reason: str | None = None  # why it failed, one sentence
    retry_at: float | None = None  # Unix time of the next attempt
    transitions: tuple[Transition, ...] = ()  # oldest first, the newest 32


class Status(msgspec.Struct, tag="status", frozen=True):
    """What the supervisor knows that no worker can see."""

    redis: str = "unknown"  # "ok", "unreachable", "lost" (its `active` key has gone) or "unknown" at the start
    redis_reason: str | None = None  # why it is unreachable, one sentence
    redis_refusal: str | None = None  # why it refuses to be written to, one sentence
    redis_since: float = 0.0  # Unix time of the last change of `redis`
    active_version: str | None = None  # what Redis said last
    active_epoch: int = 0
    stale_since: float | None = None  # monotonic seconds; since then the served model may be behind Redis
    models: tuple[ModelState, ...] = ()
    engine_restarts: int = 0
    swaps: dict[str, int] = {}  # result → how many
    draining: bool = False
    replica: str = ""  # id of this replica, as other replicas see it
    catalog_revision: int = 0  # that every engine of this replica but a shadow's has applied
    catalog_era: str = ""  # of that revision: another one once Redis has lost the catalog
    catalog_lost: bool = False  # Redis has lost what is obeyed here
    catalog_unknown: str | None = None  # why nobody knows what is to be obeyed, one sentence
    unplaced: dict[str, str] = {}  # added item → why the model that serves cannot recommend it; those changed last
    unplaced_count: int = 0  # of all such items

    @property
    def staleness_s(self) -> float:
        """Seconds for which what is served may have been behind Redis."""
        return 0.0 if self.stale_since is None else max(0.0, time.monotonic() - self.stale_since)

    def model(self, version: str) -> ModelState | None:
        """None: this replica never had to do with it, or long ago."""
        return next((model for model in self.models if model.version == version), None)

    @property
    def failed(self) -> tuple[ModelState, ...]:
        """Versions that were to be served and could not be."""
        return tuple(model for model in self.models if model.reason)


class Acknowledge(msgspec.Struct, tag="acknowledge", frozen=True):
    """This worker sends nothing new to the engines before `epoch`."""

    epoch: int


class Retry(msgspec.Struct, tag="retry", frozen=True):
    """An operator asked this worker for a model: what failed and waits is to be tried again at once."""


class Counts(msgspec.Struct, tag="counts", frozen=True):
    """What this worker answered since its last report, told about once a second; watched after a version takes over."""

    version: str
    answers: int  # requests that the version answered or failed to answer
    errors: int  # of them answered with 5xx
    exhausted: int  # of them answered with fewer than k items


Order = Routes | Status
Report = Acknowledge | Retry | Counts

_encoder = msgspec.msgpack.Encoder()
_orders = msgspec.msgpack.Decoder(Order)
_reports = msgspec.msgpack.Decoder(Report)


def encode(message: Order | Report) -> bytes:
    """The frame of one message."""
    return framed(_encoder.encode(message))


async def read_order(reader: asyncio.StreamReader) -> Order | None:
    """A worker's next order, or None when the supervisor has gone; raises as `read_frame` and msgspec do."""
    body = await read_frame(reader)
    return None if body is None else _orders.decode(body)


async def read_report(reader: asyncio.StreamReader) -> Report | None:
    """What a worker says next, or None when it has gone; raises as `read_frame` and msgspec do."""
    body = await read_frame(reader)
    return None if body is None else _reports.decode(body)
