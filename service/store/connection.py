"""From a Redis URL to a client whose failures are `StoreError`s that name the server and never a password."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import AuthenticationWrongNumberOfArgsError, ClusterError, RedisClusterException
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from ..errors import SettingsError, StoreError, StoreReadOnly, StoreUnavailable

SCHEMES: Final = (
    "redis://, rediss://, unix://, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE[/DB] or redis+cluster://HOST:PORT,…, "
    "the last two with rediss+ for TLS"
)
_PLAIN: Final = ("redis", "rediss", "unix")
_LISTS: Final = {"sentinel": 26379, "cluster": 6379}  # kind → default port
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_REFUSED: Final = (
    redis.AuthenticationError,
    redis.exceptions.AuthorizationError,
    AuthenticationWrongNumberOfArgsError,
)
_DOWN: Final = (
    redis.ConnectionError,
    redis.TimeoutError,
    ClusterError,
    RedisClusterException,
    OSError,
)
_NO_RIGHT: Final = re.compile(r"permission|can't run this command")  # as every version says it, in scripts too
_NO_CHANGES: Final = re.compile(r"(MISCONF|NOREPLICAS) .*")  # its disk fails or is full; too few replicas follow

_Sentinel: Any = Sentinel  # redis-py gives these no types
_Cluster: Any = RedisCluster
_ClusterNode: Any = ClusterNode

T = TypeVar("T")


@dataclass(frozen=True)
class Connection:
    """One Redis: a server, what Sentinels say is the master, or a Cluster. Connects on first use; thread-safe.

    Raises SettingsError for a URL that cannot be meant.
    """

    url: str = field(repr=False)  # with its password

    def __post_init__(self) -> None:
        if _kind(_split(self.url).scheme) != "cluster":  # a cluster's client asks the servers as soon as it exists
            _ = self.client

    def __str__(self) -> str:
        """The URL without user, password and options."""
        parts = _split(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @cached_property
    def client(self) -> Any:  # redis-py's own hints mix answers with awaitables of them
        return {"plain": _plain, "sentinel": _sentinel, "cluster": _cluster}[_kind(_split(self.url).scheme)](self.url)

    def ask(self, command: Callable[[Any], T]) -> T:
        """What `command` gets from the client. Raises StoreUnavailable, or StoreError where the answer is an error."""
        try:
            return command(self.client)
        except _REFUSED:
            raise StoreUnavailable(f"Redis at {self} refuses this user: password missing or wrong") from None
        except MasterNotFoundError:  # its own text shows clients, and with some versions their passwords
            raise StoreUnavailable(
                f"Redis at {self} does not answer: no Sentinel answers, or none knows such a master"
            ) from None
        except _DOWN as error:
            raise StoreUnavailable(f"Redis at {self} does not answer: {_first_line(error)}") from None
        except redis.RedisError as error:
            raise self._answered(error) from None

    def _answered(self, error: redis.RedisError) -> StoreError:
        """What an error that Redis answers means; one inside a script has no class of its own."""
        if isinstance(error, redis.exceptions.OutOfMemoryError) or "-OOM " in str(error):
            return StoreReadOnly(f"Redis at {self} is full: its maxmemory is reached")
        if isinstance(error, redis.exceptions.NoPermissionError) or _NO_RIGHT.search(str(error)):
            return StoreReadOnly(f"Redis at {self} gives this user no right to that: {_first_line(error)}")
        if why := _NO_CHANGES.search(_first_line(error)):  # in a script's error behind where the script failed
            return StoreReadOnly(f"Redis at {self} takes no changes now: {why[0]}")
        if isinstance(error, redis.exceptions.ReadOnlyError) or "-READONLY " in str(error):
            return StoreReadOnly(f"Redis at {self} takes no changes now: it is a replica")
        return StoreError(f"Redis at {self} answers with an error: {_first_line(error)}")

    def ask_node_of(self, key: str, section: str) -> dict[str, Any]:
        """INFO of the server that holds `key`."""

        def info(client: Any) -> dict[str, Any]:
            if not isinstance(client, _Cluster):
                return dict(client.info(section))
            return dict(client.info(section, target_nodes=client.get_node_from_key(key)))

        return self.ask(info)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()


def _common() -> dict[str, Any]:
    return {
        "protocol": 2,  # one shape of answers, whatever redis-py takes for its default
        "socket_connect_timeout": 3.0,
        "socket_timeout": 5.0,  # three tries: a server that hangs is told within some 15 s
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
        "retry_on_error": [redis.ConnectionError, redis.TimeoutError],  # before version 6, not without saying so
    }


def _plain(url: str) -> Any:
    try:
        client = redis.Redis.from_url(url, **_common())
        client.connection_pool.make_connection()  # does not connect, but refuses unknown options
    except (TypeError, ValueError):
        raise SettingsError(f"the Redis URL {_hidden(url)} has an option that redis-py does not know") from None
    return client


def _sentinel(url: str) -> Any:
    parts = _split(url)
    service, _, db = parts.path.strip("/").partition("/")
    sentinels = _Sentinel(_nodes(url), sentinel_kwargs=_common() | _sentinel_login(parts), **_common())
    return sentinels.master_for(service, db=int(db or 0), **_login(parts), **_tls(parts))


def _cluster(url: str) -> Any:
    parts = _split(url)
    nodes = [_ClusterNode(host, port) for host, port in _nodes(url)]
    return _Cluster(startup_nodes=nodes, **_common(), **_login(parts), **_tls(parts))


def _split(url: str) -> SplitResult:
    """The parts of a URL that can be meant."""
    try:
        parts = urlsplit(url)
        _check(parts)
    except ValueError as error:
        raise SettingsError(f"the Redis URL {_hidden(url)} cannot be used: {error}") from None
    return parts


def _check(parts: SplitResult) -> None:
    """Raises ValueError with a reason that repeats nothing of the user and password part."""
    kind = _kind(parts.scheme)
    if kind == "unknown":
        raise ValueError(f"it must start with {SCHEMES}")
    if parts.fragment:
        raise ValueError("it holds a '#'; in a password write %23")
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("it names no socket")
    if parts.scheme != "unix" and not _hosts(parts):
        raise ValueError("it names no host, or a port that is no number; in a password write / as %2F")
    if kind in _LISTS:
        _check_list(parts, kind)
    elif kind == "plain" and parts.scheme != "unix" and not _is_db(parts.path):
        raise ValueError("what follows the host must be the number of a database")


def _check_list(parts: SplitResult, kind: str) -> None:
    service, _, db = parts.path.strip("/").partition("/")
    if kind == "sentinel" and (not service or not _is_db(db)):
        raise ValueError("after the hosts it needs /SERVICE or /SERVICE/DB")
    if kind == "cluster" and parts.path.strip("/"):
        raise ValueError("a cluster has no numbered databases")
    unknown = set(dict(parse_qsl(parts.query))) - (_SENTINEL_OPTIONS if kind == "sentinel" else set())
    if unknown:
        raise ValueError(f"it has the unknown option {min(unknown)!r}")


def _is_db(text: str) -> bool:
    number = text.strip("/")
    return not number or (number.isascii() and number.isdecimal())


def _hosts(parts: SplitResult) -> list[tuple[str, int | None]]:
    """Host and port of every server in the URL, none where one of them makes no sense."""
    found = []
    for place in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{place}")
        try:
            port = one.port
        except ValueError:
            return []
        if not one.hostname:
            return []
        found.append((one.hostname, port))
    return found


def _nodes(url: str) -> list[tuple[str, int]]:
    parts = _split(url)
    return [(host, port or _LISTS[_kind(parts.scheme)]) for host, port in _hosts(parts)]


def _kind(scheme: str) -> str:
    """plain, sentinel, cluster or unknown."""
    first, _, second = scheme.partition("+")
    if first in _PLAIN and not second:
        return "plain"
    return second if first in ("redis", "rediss") and second in _LISTS else "unknown"


def _login(parts: SplitResult) -> dict[str, Any]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return {"username": unquote(user) or None, "password": unquote(password) or None}


def _sentinel_login(parts: SplitResult) -> dict[str, Any]:
    options = dict(parse_qsl(parts.query))
    return {"username": options.get("sentinel_username"), "password": options.get("sentinel_password")} | _tls(parts)


def _tls(parts: SplitResult) -> dict[str, Any]:
    return {"ssl": True} if parts.scheme.startswith("rediss") else {}


def _hidden(url: str) -> str:
    """What of a broken URL is safe to show: where its password begins and ends is not sure, so only the scheme."""
    scheme, found, _ = url.partition("://")
    return f"{scheme}://…" if found and len(scheme) <= 20 else "…"


def _first_line(error: BaseException) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return text if len(text) <= 200 else f"{text[:200]}…"
