"""The reader's socket: any number of connections and questions, one reply to each.

Look-ups are answered at once. What takes long runs on threads: scans of texts and of the trie, and on one of their own
each the text encoder, checks of changes, which no search of the public may hold up, and changes of the catalog, so that
they are made in the order in which they came.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec

from service.catalog.items import LiveItems
from service.errors import EngineFailed
from service.frames import (
    Applied,
    Apply,
    Cancel,
    Checked,
    CheckPatch,
    Children,
    Document,
    EngineInfo,
    Failure,
    Find,
    Lookup,
    Ping,
    Prepare,
    Prepared,
    Reply,
    Request,
    failure,
    pack_reply,
    read_frame,
)
from service.lifetime import BACKLOG

from .documents import found_document, item_document
from .newcomers import Newcomers, check_patches
from .prefixes import children_document
from .text_search import TextSearch

_SETTLE_S = 0.05
_FLUSH_S = 5.0
_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Connection:
    """One peer and the questions it waits for, by query id."""

    writer: asyncio.StreamWriter
    encoder: msgspec.msgpack.Encoder = field(default_factory=msgspec.msgpack.Encoder)
    tasks: "dict[int, asyncio.Task[Reply]]" = field(default_factory=dict)

    def send(self, reply: Reply) -> None:
        if not self.writer.is_closing():
            self.writer.write(pack_reply(reply, self.encoder))


class Server:
    """Answers about the items of one artifact until `drain`."""

    def __init__(self, items: LiveItems, info: EngineInfo) -> None:
        self._items = items
        self._info = info
        self._texts = TextSearch(items)
        self._newcomers = Newcomers(items)
        self._connections: set[Connection] = set()
        self._decoder = msgspec.msgpack.Decoder(Request)
        self._changing, self._checking, self._encoding = (
            ThreadPoolExecutor(1, name) for name in ("changes", "checks", "encoder")
        )
        self._reading = ThreadPoolExecutor(2, "reading")

    async def listen(self, path: str) -> None:
        """Accepts connections on the Unix socket `path` from now on."""
        self._server = await asyncio.start_unix_server(self._serve, path, backlog=BACKLOG)

    async def drain(self, timeout_s: float) -> None:
        """Stops accepting connections, answers what is in flight, closes; gives up after `timeout_s`."""
        self._server.close()
        await asyncio.sleep(_SETTLE_S)  # questions that are in the sockets' buffers already
        waiting = [task for connection in self._connections for task in connection.tasks.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
        for pool in (self._changing, self._checking, self._encoding, self._reading):
            pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(_close(connection) for connection in self._connections))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads questions until the peer goes, then drops what it no longer waits for."""
        connection = Connection(writer)
        self._connections.add(connection)
        try:
            while (body := await read_frame(reader)) is not None:
                self._receive(connection, self._decoder.decode(body))
                await writer.drain()  # a peer that does not read its answers gets no more questions in
        except (ValueError, msgspec.MsgspecError, asyncio.IncompleteReadError, ConnectionError) as error:
            logger.warning("a connection broke off: %s", error)
        finally:
            self._connections.discard(connection)
            for task in list(connection.tasks.values()):
                task.cancel()
            writer.close()

    def _receive(self, connection: Connection, message: Request) -> None:
        if message.query_id in connection.tasks and not isinstance(message, Cancel):
            raise ValueError(f"query id {message.query_id} is in flight already")
        match message:
            case Ping(query_id):
                connection.send(msgspec.structs.replace(self._info, query_id=query_id))
            case Cancel(query_id):
                if task := connection.tasks.get(query_id):
                    task.cancel()
            case _:
                task = asyncio.create_task(self._reply(message))
                connection.tasks[message.query_id] = task
                task.add_done_callback(partial(_settle, connection, message.query_id))

    async def _reply(self, message: Request) -> Reply:
        match message:
            case Lookup(query_id, item_id):
                return self._document(query_id, item_document(self._items, item_id))
            case Find(query_id, text, limit, offset):
                return self._document(query_id, await _on(self._reading, partial(self._find, text, limit, offset)))
            case Children(query_id, prefix, limit):
                children = partial(children_document, self._items, prefix, limit)
                return self._document(query_id, await _on(self._reading, children))
            case Apply():
                return await _on(self._changing, partial(self._apply, message))
            case Prepare():
                return await self._prepare(message)
            case CheckPatch(query_id, item_ids, attributes):
                check = partial(check_patches, self._items, item_ids, attributes)
                return Checked(query_id, await _on(self._checking, check))
            case _:
                raise EngineFailed(f"a reader does not answer {type(message).__name__}")

    def _document(self, query_id: int, body: bytes) -> Document:
        return Document(query_id, body, self._info.model_version)

    def _find(self, text: str, limit: int, offset: int) -> bytes:
        found = self._texts.find(text, limit, offset)
        return found_document(self._items, text, found.items, found.total)

    def _apply(self, message: Apply) -> Applied:
        staged = self._items.stage(message.records, message.codes)
        self._items.commit(staged)
        return Applied(message.query_id, message.revision, staged.missing)

    async def _prepare(self, message: Prepare) -> Prepared:
        check = partial(self._newcomers.check, message.items, message.embeddings)
        items = await _on(self._checking, check)
        embed = partial(self._newcomers.embed, items, message.embeddings)
        embeddings = await _on(self._encoding, embed)
        return Prepared(message.query_id, self._newcomers.encoder_name, embeddings)


async def _on(pool: ThreadPoolExecutor, call: Callable[[], _Result]) -> _Result:
    return await asyncio.get_running_loop().run_in_executor(pool, call)


def _settle(connection: Connection, query_id: int, task: "asyncio.Task[Reply]") -> None:
    """Exactly one reply, also to a question that failed, or was cancelled before anything was done about it."""
    connection.tasks.pop(query_id, None)
    if task.cancelled():
        connection.send(Failure(query_id, EngineFailed.code, "the question was cancelled"))
    elif error := task.exception():
        connection.send(failure(query_id, error))
    else:
        connection.send(task.result())


async def _close(connection: Connection) -> None:
    """Closing flushes what was written; a peer that does not read is not waited for long."""
    connection.writer.close()
    try:
        async with asyncio.timeout(_FLUSH_S):
            await connection.writer.wait_closed()
    except (TimeoutError, ConnectionError):
        logger.warning("a connection closed before all its answers were read")
