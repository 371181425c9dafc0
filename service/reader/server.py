"""The reader's socket: any number of connections and questions, one reply to each.

Look-ups are answered at once. What takes long runs on threads: scans of texts and of the trie, and on one of their own
each the text encoder, checks of changes, which no search of the public may hold up, and changes of the catalog, so that
they are made in the order in which they came.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec

from service.catalog.items import LiveItems
from service.connection import Connection
from service.errors import EngineFailed
from service.frames import (
    Applied,
    Apply,
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
)
from service.lifetime import BACKLOG
from service.one_thread import LONGEST_STEP_S, OneThread

from .documents import found_document, item_document
from .newcomers import Newcomers, check_patches
from .prefixes import children_document
from .text_search import TextSearch

_SETTLE_S = 0.05
_Result = TypeVar("_Result")


class Server:
    """Answers about the items of one artifact until `drain`."""

    def __init__(self, items: LiveItems, info: EngineInfo) -> None:
        self._items = items
        self._info = info
        self._texts = TextSearch(items)
        self._newcomers = Newcomers(items)
        self._connections: set[Connection] = set()
        self._changing = OneThread("changes")
        self._checking, self._encoding = (ThreadPoolExecutor(1, name) for name in ("checks", "encoder"))
        self._reading = ThreadPoolExecutor(2, "reading")

    async def listen(self, path: str) -> None:
        """Accepts connections on the Unix socket `path` from now on."""
        connection = partial(Connection, self._connections, self._receive)
        self._server = await asyncio.get_running_loop().create_unix_server(connection, path, backlog=BACKLOG)

    async def drain(self, timeout_s: float) -> None:
        """Stops accepting connections, answers what is in flight, closes; gives up after `timeout_s`."""
        self._server.close()
        await asyncio.sleep(_SETTLE_S)  # questions that are in the sockets' buffers already
        waiting = [task for connection in self._connections for task in connection.in_flight.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
        self._changing.close()
        for pool in (self._checking, self._encoding, self._reading):
            pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(connection.flush() for connection in [*self._connections]))

    def _receive(self, connection: Connection, message: Request) -> None:
        if isinstance(message, Ping):
            self._answer_ping(connection, message)
            return
        task = asyncio.create_task(self._reply(message))
        connection.in_flight[message.query_id] = task
        task.add_done_callback(partial(_settle, connection, message.query_id))

    def _answer_ping(self, connection: Connection, ping: Ping) -> None:
        """At once; where a change seems to hang, when it has been made, for which the supervisor does not wait long."""
        answer = partial(connection.send, msgspec.structs.replace(self._info, query_id=ping.query_id))
        if self._changing.busy_s < LONGEST_STEP_S:
            answer()
        else:
            self._changing.after_all(asyncio.get_running_loop().call_soon_threadsafe, answer)

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
                return await self._changing.do(self._apply, message)
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
    connection.in_flight.pop(query_id, None)
    if task.cancelled():
        connection.send(Failure(query_id, EngineFailed.code, "the question was cancelled"))
    elif error := task.exception():
        connection.send(failure(query_id, error))
    else:
        connection.send(task.result())
