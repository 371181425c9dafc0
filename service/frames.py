"""What HTTP workers and engines say to each other over a Unix socket.

A frame is a 4-byte little-endian length and one MessagePack message. Any number of queries may be in flight on one
connection; every query gets exactly one `Answer` or `Failure` with its `query_id`, in any order.
"""

import asyncio
import struct
from typing import Final

import msgspec

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_LENGTH = struct.Struct("<I")


class Query(msgspec.Struct, tag="query", array_like=True):
    """One recommendation request."""

    query_id: int
    history: list[str]  # item ids, oldest first, of any length
    k: int
    deadline: float  # seconds on CLOCK_MONOTONIC, which all processes of a machine share
    exclude: list[str] = []
    exclude_seen: bool = True
    beam_width: int | None = None  # None: the artifact's default, or the smallest that holds k
    rescore: bool = True
    with_metadata: bool = False
    with_codes: bool = False
    alone: bool = False  # run in a batch of its own: it was in flight when an engine died


class Cancel(msgspec.Struct, tag="cancel", array_like=True):
    """The client has gone; drop the query if it is still waiting."""

    query_id: int


class Ping(msgspec.Struct, tag="ping", array_like=True):
    """Asks for `EngineInfo`."""

    query_id: int


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


class Failure(msgspec.Struct, tag="failure", array_like=True):
    """A query that got no recommendations, and why."""

    query_id: int
    code: str  # one of service.errors' codes, e.g. "overloaded", "deadline_exceeded", "bad_k", "engine_failed"
    message: str  # one sentence for the client


class EngineInfo(msgspec.Struct, tag="info", array_like=True):
    """What a warm engine says of itself."""

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


Request = Query | Cancel | Ping
Reply = Answer | Failure | EngineInfo


def pack(message: Request | Reply, encoder: msgspec.msgpack.Encoder) -> bytes:
    """The frame of one message."""
    body = encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


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
