"""What engines and readers are asked and answer over a Unix socket.

A frame is a 4-byte little-endian length and one MessagePack message. Any number of messages may be in flight on one
connection; each gets exactly one reply with its `query_id`, in any order: an `Answer`, the reply named in its
docstring, or a `Failure`. Engines search (`Query`); readers look items up and never search. Both follow the catalog
(`Apply`).
"""

import asyncio
import logging
import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from .catalog.records import ItemRecord
from .errors import BadRequest, BodyTooLarge, EngineFailed, ServiceError

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_LENGTH = struct.Struct("<I")

logger = logging.getLogger(__name__)


Scalar = str | float | bool


class Condition(msgspec.Struct, array_like=True, frozen=True):
    """What one attribute of an item must be like; the conditions of a query hold all together.

    Empty means absent: a condition with nothing set is always true. `gte` and `lte` are for numbers only.
    """

    field: str
    any_of: list[Scalar] | None = None
    none_of: list[Scalar] | None = None
    gte: float | None = None
    lte: float | None = None


class Query(msgspec.Struct, tag="query", array_like=True):
    """One recommendation request."""

    query_id: int
    history: list[str]  # item ids, oldest first, of any length
    k: int
    deadline: float  # seconds on CLOCK_MONOTONIC, which all processes of a machine share
    exclude: list[str] = []
    exclude_seen: bool = True
    beam_width: int | None = None  # None: the artifact's default, or the smallest that holds k
    with_metadata: bool = False
    with_codes: bool = False
    alone: bool = False  # run in a batch of its own: it was in flight when an engine died
    filter: list[Condition] = []
    include_items: list[str] | None = None  # only these may come back
    diversity: float = 0.0  # 0 … 1: at most max(1, ceil(k (1 - d))) items share a first token
    min_score: float | None = None
    with_explain: bool = False


class Cancel(msgspec.Struct, tag="cancel", array_like=True):
    """The client has gone, or the deadline has passed; drop the query if it is still waiting."""

    query_id: int


class Ping(msgspec.Struct, tag="ping", array_like=True):
    """Asks for `EngineInfo`."""

    query_id: int


class Apply(msgspec.Struct, tag="apply", array_like=True):
    """The catalog has changed: these records replace what is known of their items. Reply: `Applied`.

    Sent in order of `revision` by the supervisor alone. Large changes come in several messages, and the last names the
    new revision.
    """

    query_id: int
    revision: int
    records: list[ItemRecord]
    codes: dict[str, list[int]] = {}  # item id → code in this model, of added items among `records`


class Applied(msgspec.Struct, tag="applied", array_like=True):
    """The records count for every query from now on."""

    query_id: int
    revision: int
    missing: list[str] = []  # added items that are not in this model yet, because `codes` did not name them


class Place(msgspec.Struct, tag="place", array_like=True):
    """Propose a free code for each of these added items, all different. Reply: `Placed`."""

    query_id: int
    records: list[ItemRecord]
    taken: list[list[int]] = []  # codes of items that the engine may not have, such as removed ones


class Placed(msgspec.Struct, tag="placed", array_like=True):
    """Proposals; nothing has changed yet. Redis decides, since replicas may propose at the same time."""

    query_id: int
    codes: dict[str, list[int]]
    refused: dict[str, str] = {}  # item id → why it can have no code in this model, one sentence


class Prepare(msgspec.Struct, tag="prepare", array_like=True):
    """To a reader: check new items and embed their text. Reply: `Prepared`, or a `Failure` with errors."""

    query_id: int
    items: list[bytes]  # JSON objects, each with its item_id
    embeddings: list[list[float] | None]  # given by the client, or None: encode the text


class Prepared(msgspec.Struct, tag="prepared", array_like=True):
    """Embeddings of new items, float32 little-endian."""

    query_id: int
    encoder: str  # which text encoder they belong to, as in `Manifest.text_encoder`
    embeddings: list[bytes]


class CheckPatch(msgspec.Struct, tag="check_patch", array_like=True):
    """To a reader: may these attributes be set? Reply: `Checked`, or a `Failure` with errors (pointers /items/i/…)."""

    query_id: int
    item_ids: list[str]
    attributes: list[bytes | None]  # a JSON object for each item


class Checked(msgspec.Struct, tag="checked", array_like=True):
    query_id: int
    unknown: list[str]  # ids the model that serves does not have


class Lookup(msgspec.Struct, tag="lookup", array_like=True):
    """To a reader: one item. Reply: `Document`, or a `Failure` with code "unknown_item"."""

    query_id: int
    item_id: str


class Find(msgspec.Struct, tag="find", array_like=True):
    """To a reader: items whose id, title or other text holds every word of `text`. Reply: `Document`."""

    query_id: int
    text: str
    limit: int
    offset: int = 0


class Children(msgspec.Struct, tag="children", array_like=True):
    """To a reader: what may follow a prefix of tokens. Reply: `Document`, or `Failure` "unknown_prefix"."""

    query_id: int
    prefix: list[int]
    limit: int


class Document(msgspec.Struct, tag="document", array_like=True):
    """JSON, ready to be sent to a client."""

    query_id: int
    body: bytes
    model_version: str = ""  # whose items and codes it tells


class Explanation(msgspec.Struct, array_like=True):
    """Why one item came back."""

    tokens: list[int]
    log_probs: list[float]  # of each token, given those before it; empty where popularity answered
    nearest: list[tuple[str, int]]  # history items that share the longest prefix, newest first: (id, tokens shared)
    attributes: bytes  # JSON object: what filters see of the item


class Answer(msgspec.Struct, tag="answer", array_like=True):
    """Recommendations of one query, best first."""

    query_id: int
    item_ids: list[str]
    scores: list[float]  # what the order follows
    code_scores: list[float]  # log-probability of the code; empty when source is "popular"
    source: str  # "model" or "popular"
    exhausted: bool  # fewer than k legal items exist
    used: int  # history items the network read
    unknown: int  # history items it does not know
    truncated: int  # known history items older than the network reads
    metadata: list[bytes] | None = None  # one JSON object an item, UTF-8
    codes: list[list[int]] | None = None
    queue_s: float = 0.0
    batch_s: float = 0.0  # gathering and padding
    run_s: float = 0.0
    batch_rows: int = 1
    catalog_revision: int = 0
    waiting: int = 0  # queries in the engine's queue when this one was answered
    explanations: list[Explanation] | None = None
    warnings: list[str] = []


class Failure(msgspec.Struct, tag="failure", array_like=True):
    """A query that got no recommendations, and why."""

    query_id: int
    code: str  # one of service.errors' codes, e.g. "overloaded", "bad_k", "engine_failed"; or "cancelled"
    message: str  # one sentence for the client
    errors: list[tuple[str, str]] = []  # (JSON pointer into the request, why) for each wrong field


class EngineInfo(msgspec.Struct, tag="info", array_like=True):
    """What a warm engine, or a reader, says of itself."""

    query_id: int
    model_version: str
    provider: str  # "CUDAExecutionProvider" or "CPUExecutionProvider"
    item_count: int
    beam_widths: list[int]
    code_length: int
    tokens_per_level: int
    load_s: float
    warm_s: float
    pid: int
    precision: str = "fp32"  # or "int8"
    golden_overlap: float = 1.0  # share of the items recorded at export that it finds
    filter_slots: int = 0  # filters it can keep compiled at once


Request = Query | Cancel | Ping | Apply | Place | Prepare | CheckPatch | Lookup | Find | Children
Reply = Answer | Failure | EngineInfo | Applied | Placed | Prepared | Checked | Document


def pack(message: Request | Reply, encoder: msgspec.msgpack.Encoder) -> bytes:
    """The frame of one message; raises BodyTooLarge for one above `MAX_FRAME_BYTES`, which no peer would take."""
    return framed(encoder.encode(message))


def framed(body: bytes) -> bytes:
    """A message's bytes behind their length; raises BodyTooLarge above `MAX_FRAME_BYTES`."""
    if len(body) > MAX_FRAME_BYTES:
        raise BodyTooLarge(f"{len(body)} bytes would be sent to the model, at most {MAX_FRAME_BYTES} can be")
    return _LENGTH.pack(len(body)) + body


def pack_reply(reply: Reply, encoder: msgspec.msgpack.Encoder) -> bytes:
    """The frame of one reply; of a `Failure` where it would be above `MAX_FRAME_BYTES`."""
    try:
        return pack(reply, encoder)
    except BodyTooLarge:
        sentence = f"the answer would be above {MAX_FRAME_BYTES} bytes; ask for fewer items, or for less about them"
        return pack(Failure(reply.query_id, BadRequest.code, sentence), encoder)


def failure(query_id: int, error: BaseException) -> Failure:
    """What whoever asked is told; an error nobody foresaw is logged and told as `engine_failed`."""
    if not isinstance(error, ServiceError):
        logger.error("question %d failed", query_id, exc_info=error)
        return Failure(query_id, EngineFailed.code, "the model's process failed on this question")
    wrong = error.errors if isinstance(error, BadRequest) else []
    return Failure(query_id, error.code, str(error), [(one["pointer"], one["detail"]) for one in wrong])


class Frames:
    """Cuts what comes over a connection into messages."""

    def __init__(self) -> None:
        self._unread = bytearray()

    @property
    def incomplete(self) -> bool:
        """Whether what came last is a part of a message."""
        return bool(self._unread)

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Every message that is whole now, without its length; raises ValueError for one above `MAX_FRAME_BYTES`."""
        unread = self._unread
        unread += data
        while len(unread) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(unread)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes is above the limit of {MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(unread) < end:
                break
            body = bytes(unread[_LENGTH.size : end])
            del unread[:end]
            yield body


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next message's bytes, or None at a clean end of the stream.

    Raises ValueError for a length above `MAX_FRAME_BYTES`, asyncio.IncompleteReadError when cut within a frame.
    """
    try:
        head = await reader.readexactly(_LENGTH.size)
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes is above the limit of {MAX_FRAME_BYTES}")
    return await reader.readexactly(length)
