"""An engine without a model: it speaks `service.frames` over a real Unix socket, and a test says what it answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from service.api.control import Route, Routes
from service.frames import (
    Answer,
    Cancel,
    Checked,
    CheckPatch,
    Children,
    Document,
    EngineInfo,
    Explanation,
    Failure,
    Find,
    Lookup,
    Prepare,
    Prepared,
    Query,
    Reply,
    Request,
    pack,
    read_frame,
)

_ROUNDS_S = 0.01

Behaviour = Callable[[Query], Reply | None]
Reading = Callable[[Request], Reply | None]


class Die(Exception):  # noqa: N818
    """Raised by a behaviour: the engine ends as a process does, with everything in flight."""


def answer(query: Query, **fields: Any) -> Answer:
    """`k` items named after the query's history."""
    items = [f"{query.history[-1] if query.history else 'popular'}-{rank}" for rank in range(query.k)]
    plain: dict[str, Any] = {
        "item_ids": items,
        "scores": [-float(rank) for rank in range(query.k)],
        "code_scores": [-2.0 * rank for rank in range(query.k)],
        "source": "model",
        "exhausted": False,
        "used": len(query.history),
        "unknown": 0,
        "truncated": 0,
    }
    if query.with_metadata:
        plain["metadata"] = [b'{"title":  "as it is"}'] * query.k
    if query.with_codes:
        plain["codes"] = [[rank, 7] for rank in range(query.k)]
    if query.with_explain:
        plain["explanations"] = [explanation(rank) for rank in range(query.k)]
    return Answer(query.query_id, **(plain | fields))


def explanation(rank: int) -> Explanation:
    return Explanation([rank, 7], [-0.5, -1.5], [("a", 1)], b'{"color":  "red"}')


def read(message: Request) -> Reply:
    """What a reader says that knows the items "a" and "a/b c", embeds every text as two zeros, and checks no value."""
    number = message.query_id
    match message:
        case Lookup(item_id=item_id) if item_id in ("a", "a/b c"):
            return Document(number, msgspec.json.encode({"item_id": item_id}))
        case Lookup(item_id=item_id):
            return Failure(number, "unknown_item", f"there is no item {item_id!r}")
        case Find(text=text, limit=limit, offset=offset):
            return Document(number, msgspec.json.encode({"text": text, "limit": limit, "offset": offset}))
        case Children(prefix=prefix, limit=limit) if prefix != [9]:
            return Document(number, msgspec.json.encode({"prefix": prefix, "limit": limit}))
        case Children():
            return Failure(number, "unknown_prefix", "no code begins with 9")
        case CheckPatch(item_ids=ids):
            return Checked(number, [item_id for item_id in ids if item_id not in ("a", "a/b c")])
        case Prepare(items=items):
            return Prepared(number, "minilm-0", [bytes(8)] * len(items))
    raise AssertionError(f"no reader is asked for {message}")


def info(version: str = "v1") -> EngineInfo:
    return EngineInfo(0, version, "CPUExecutionProvider", 60, [4, 50], 3, 8, 0.1, 0.2, 1)


class LittleEngine:
    """Answers with `behaviour`, which may raise `Die` or return None for silence; remembers what it heard."""

    def __init__(self, path: Path, behaviour: Behaviour, version: str) -> None:
        self.route = Route(str(path), info(version))
        self.behaviour = behaviour
        self.reading: Reading = read
        self.asked: list[Request] = []  # of a reader
        self.queries: list[Query] = []
        self.cancelled: list[int] = []
        self.heard = asyncio.Event()  # something, since it was cleared
        self._writers: set[asyncio.StreamWriter] = set()
        self.dead = False

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.route.socket)

    def die(self) -> None:
        self.dead = True
        self.heard.set()
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def break_off(self) -> None:
        """Ends the connections, of which there must be some; the engine lives on."""
        while not self._writers:
            await asyncio.sleep(_ROUNDS_S)
        for writer in self._writers:
            writer.transport.abort()

    async def closed(self) -> None:
        await self._server.wait_closed()
        await asyncio.sleep(_ROUNDS_S)  # what was aborted is closed by the loop's next rounds

    def reply(self, message: Reply) -> None:
        for writer in self._writers:
            writer.write(pack(message, msgspec.msgpack.Encoder()))

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self.heard.clear()
                await self.heard.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while not self.dead and (body := await read_frame(reader)) is not None:
                self._hear(msgspec.msgpack.decode(body, type=Request))
        except Die:
            self.die()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _hear(self, message: Request) -> None:
        self.heard.set()
        if isinstance(message, Cancel):
            self.cancelled.append(message.query_id)
            return
        if isinstance(message, Query):
            self.queries.append(message)
            reply = self.behaviour(message)
        else:
            self.asked.append(message)
            reply = self.reading(message)
        if reply:
            self.reply(reply)


def silent(_query: Query) -> None:
    return None


def deadly(_query: Query) -> None:
    raise Die


def failing(code: str, message: str = "so it is") -> Behaviour:
    return lambda query: Failure(query.query_id, code, message)


@asynccontextmanager
async def engine(folder: Path, behaviour: Behaviour = answer, version: str = "v1") -> AsyncIterator[LittleEngine]:
    """A listening engine; its socket has a name of its own in `folder`."""
    little = LittleEngine(folder / f"{len(list(folder.iterdir()))}.sock", behaviour, version)
    await little.start()
    try:
        yield little
    finally:
        await asyncio.sleep(_ROUNDS_S)  # asyncio trips over a connection that it accepts while its server closes
        little.die()
        await little.closed()


def routes(little: LittleEngine | None, *, reader: LittleEngine | None = None) -> Routes:
    return Routes(1, little.route if little else None, reader=reader.route if reader else None)
