"""A reader process, from its start to its end, and everything it is asked."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.artifact import Artifact
from service.catalog.records import ItemRecord
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
    Query,
    Reply,
    Request,
    pack,
)
from tests.catalog_artifact import catalog_artifact

START_S = 60.0
ROWS: list[dict[str, Any]] = [{"title": "Red tent", "price": 3}, {"title": "Rope", "price": 5}, {"title": "Red rope"}]


class Client:
    """One connection to a reader."""

    def __init__(self, path: Path) -> None:
        give_up = time.monotonic() + START_S
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                self._socket.close()
                assert time.monotonic() < give_up
                time.sleep(0.02)
        self._stream = self._socket.makefile("rb")
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)

    def send(self, *requests: Request) -> None:
        self._socket.sendall(b"".join(pack(request, self._encoder) for request in requests))

    def receive(self) -> Reply | None:
        head = self._stream.read(4)
        return self._decoder.decode(self._stream.read(struct.unpack("<I", head)[0])) if head else None

    def ask(self, request: Request) -> Reply:
        self.send(request)
        reply = self.receive()
        assert reply is not None
        assert reply.query_id == request.query_id
        return reply

    def document(self, request: Request) -> Any:
        reply = self.ask(request)
        assert isinstance(reply, Document), reply
        return json.loads(reply.body)

    def failure(self, request: Request) -> Failure:
        reply = self.ask(request)
        assert isinstance(reply, Failure), reply
        return reply

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


def start(folder: Path, path: Path, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "service.reader", "--artifact", str(folder), "--socket", str(path)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


@contextmanager
def reading(folder: Path, path: Path, **environment: str) -> Iterator[tuple[Client, "subprocess.Popen[str]"]]:
    """A reader that listens, and a connection to it."""
    with start(folder, path, **environment) as process:
        try:
            client = Client(path)
            yield client, process
            client.close()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalog_artifact(tmp_path_factory.mktemp("artifacts"), ROWS, semantic_width=3).folder


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A reader of three items whose catalog nobody changes."""
    with reading(folder, tmp_path_factory.mktemp("s") / "r.sock") as (connected, _):
        yield connected


def test_it_says_what_it_is(client: Client) -> None:
    info = client.ask(Ping(7))
    assert isinstance(info, EngineInfo)
    assert (info.model_version, info.provider, info.item_count) == ("v1", "none", 3)
    assert (info.beam_widths, info.code_length, info.tokens_per_level) == ([4], 2, 16)


def test_an_item_is_looked_up(client: Client) -> None:
    assert client.document(Lookup(1, "item-1")) == {
        "item_id": "item-1",
        "available": True,
        "added": False,
        "metadata": {"item_id": "item-1", **ROWS[1]},
        "attributes": ROWS[1],
        "code": [0, 1],
    }
    failure = client.failure(Lookup(2, "nothing"))
    assert (failure.code, failure.message) == ("unknown_item", 'the model v1 has no item "nothing"')


def test_items_are_found_by_words(client: Client) -> None:
    found = client.document(Find(1, "red", 1))
    assert (found["query"], found["total"], [item["item_id"] for item in found["items"]]) == ("red", 2, ["item-0"])
    assert found["items"][0]["metadata"]["title"] == "Red tent"
    assert [item["item_id"] for item in client.document(Find(2, "red", 1, 1))["items"]] == ["item-2"]


def test_the_trie_is_browsed(client: Client) -> None:
    assert client.document(Children(1, [], 9))["children"] == [
        {"token": 0, "prefix": [0], "item_count": 3, "titles": ["Red tent", "Rope", "Red rope"]}
    ]
    assert client.failure(Children(2, [4], 9)).code == "unknown_prefix"


def test_patches_are_checked(client: Client) -> None:
    assert client.ask(CheckPatch(1, ["item-0", "x"], [b'{"price": 4}', None])) == Checked(1, ["x"])
    failure = client.failure(CheckPatch(2, ["item-0"], [b'{"price": "4"}']))
    assert failure.code == "bad_item"
    assert failure.errors == [("/items/0/attributes/price", "'price' is a number, not a keyword")]


def test_new_items_are_checked_and_need_an_embedding_or_an_encoder(client: Client) -> None:
    given = client.ask(Prepare(1, [b'{"item_id": "n"}'], [[1.0, 2.0, 3.0]]))
    assert given == Prepared(1, "given", [np.array([1, 2, 3], dtype="<f4").tobytes()])
    assert client.failure(Prepare(2, [b'{"item_id": "n"}'], [None])).code == "no_text_encoder"
    assert client.failure(Prepare(3, [b"{}"], [None])).errors[0][0] == "/items/0/item/item_id"


def test_it_does_not_search_and_lives_on(client: Client) -> None:
    failure = client.failure(Query(1, ["item-1"], 3, 1e12))
    assert (failure.code, failure.message) == ("engine_failed", "a reader does not answer Query")
    assert isinstance(client.ask(Ping(2)), EngineInfo)


def test_a_broken_peer_loses_its_connection_and_nobody_else_does(client: Client) -> None:
    path = Path(client._socket.getpeername())
    for garbage in (b"\x01\x00\x00\x00\xc1", b"\xff\xff\xff\xff"):
        peer = Client(path)
        peer._socket.sendall(garbage)
        assert peer.receive() is None
        peer.close()
    assert isinstance(client.ask(Ping(2)), EngineInfo)


def test_every_question_gets_one_reply_in_any_order(client: Client) -> None:
    questions = [Find(n, "red", 5) if n % 2 else Lookup(n, "item-0") for n in range(200)]
    client.send(*questions, *(Cancel(n) for n in range(0, 200, 7)), Cancel(999))
    replies = [client.receive() for _ in questions]
    assert sorted(reply.query_id for reply in replies if reply) == list(range(200))


def test_it_follows_the_catalog(folder: Path, socket_path: Path) -> None:
    with reading(folder, socket_path, PROREC_SPARE_ITEMS="1") as (client, _):
        records = [
            ItemRecord("item-0", 1, available=False, attributes={"price": 9, "season": "winter"}),
            ItemRecord("item-1", 1, removed=True),
            ItemRecord("new", 1, item={"item_id": "new", "title": "New rope"}),
            ItemRecord("uncoded", 1, item={"item_id": "uncoded"}),
        ]
        assert client.ask(Apply(1, 1, records, {"new": [3, 4]})) == Applied(1, 1, ["uncoded"])
        changed = client.document(Lookup(2, "item-0"))
        assert (changed["available"], changed["attributes"]["season"], changed["metadata"]["price"]) == (
            False, "winter", 9
        )  # fmt: skip
        assert client.failure(Lookup(3, "item-1")).code == "unknown_item"
        new = client.document(Lookup(4, "new"))
        assert (new["added"], new["code"], new["metadata"]["title"]) == (True, [3, 4], "New rope")
        assert [item["item_id"] for item in client.document(Find(5, "rope", 9))["items"]] == ["item-2", "new"]
        assert client.document(Children(6, [3], 9))["item_count"] == 1
        assert client.failure(Prepare(7, [b'{"item_id": "another"}'], [[1.0, 2.0, 3.0]])).code == "catalog_full"
        assert client.failure(CheckPatch(8, ["item-2"], [b'{"season": 1}'])).code == "bad_item"
        assert client.document(Find(9, "", 9))["total"] == 3  # without the one that was removed


def test_text_becomes_embeddings(text_artifact: Artifact, socket_path: Path) -> None:
    with reading(text_artifact.folder, socket_path) as (client, _):
        prepared = client.ask(Prepare(1, [b'{"item_id": "n", "title": "green tent"}'], [None]))
        assert isinstance(prepared, Prepared)
        assert prepared.encoder == text_artifact.manifest.text_encoder
        assert (
            np.isfinite(np.frombuffer(prepared.embeddings[0], dtype="<f4")).sum()
            == text_artifact.manifest.semantic_width
        )


@pytest.mark.parametrize("how", ["sigterm", "stdin"])
def test_it_answers_what_it_was_asked_and_ends(folder: Path, socket_path: Path, how: str) -> None:
    with reading(folder, socket_path) as (client, process):
        assert isinstance(client.ask(Ping(0)), EngineInfo)
        client.send(Find(1, "red", 5))
        if how == "sigterm":
            process.send_signal(signal.SIGTERM)
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert isinstance(client.receive(), Document)
        assert client.receive() is None
        assert process.wait(START_S) == 0
        assert not socket_path.exists()


def test_it_says_what_is_wrong_with_an_artifact(tmp_path: Path, socket_path: Path) -> None:
    with start(tmp_path, socket_path) as process:
        _, errors = process.communicate(timeout=START_S)
    assert process.returncode == 1
    assert "the reader could not start: " in errors.splitlines()[-1]
    assert "is not an artifact" in errors


def test_a_socket_path_the_system_cannot_hold_is_named(folder: Path, tmp_path: Path) -> None:
    with start(folder, tmp_path / ("x" * 108)) as process:
        _, errors = process.communicate(timeout=START_S)
    assert "bytes, the system allows 107" in errors
