"""What tests look at, and break, in Redis beneath a store."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from service.store import Store
from service.store.fetch import Fetcher


def stored_keys(store: Store) -> set[bytes]:
    return set(store.redis.client.scan_iter(match=f"{{{store.keys.namespace}}}:*", count=1000))


def chunk_key(store: Store, version: str, file: str, number: int = 0) -> str:
    return store.keys.chunk(version, Fetcher(store.redis, store.keys).record(version).upload, file, number)


def flip_a_byte(store: Store, key: str) -> None:
    first = store.redis.client.getrange(key, 0, 0)
    store.redis.client.setrange(key, 0, bytes([first[0] ^ 1]))


def chunks_before(store: Store, version: str, file: str, number: int = 0) -> list[str]:
    """Keys of what a fetch asks for before this chunk."""
    record = Fetcher(store.redis, store.keys).record(version)
    counts = {name: len(digests) for name, digests in record.chunk_sha256.items()}
    keys = [store.keys.chunk(version, record.upload, name, n) for name, count in counts.items() for n in range(count)]
    return keys[: keys.index(chunk_key(store, version, file, number))]


@contextmanager
def cut_off(store: Store, version: str, file: str, number: int = 0) -> Iterator[None]:
    """A fetch ends at this chunk, which is back afterwards."""
    key = chunk_key(store, version, file, number)
    chunk = store.redis.client.getdel(key)
    yield
    store.redis.client.set(key, chunk)


@contextmanager
def losing_the_first_answer(store: Store, meanwhile: Callable[[], object] = lambda: None) -> Iterator[Store]:
    """The same store through a relay that breaks the connection in place of the first answer to an EVAL.

    `meanwhile` is called between the two.
    """
    lost = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_relay_all, args=(listener, store, lost, meanwhile), daemon=True).start()
        port = listener.getsockname()[1]
        with closing(Store.connect(f"redis://127.0.0.1:{port}", store.keys.namespace)) as unlucky:
            yield unlucky
        assert lost.is_set()
        listener.shutdown(socket.SHUT_RDWR)


def _relay_all(listener: socket.socket, store: Store, lost: threading.Event, meanwhile: Callable[[], object]) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_relay, args=(client, store, lost, meanwhile), daemon=True).start()


def _relay(client: socket.socket, store: Store, lost: threading.Event, meanwhile: Callable[[], object]) -> None:
    with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
        server.connect(store.redis.url.removeprefix("unix://"))
        while True:
            asked = client.recv(1 << 24)
            if not asked:
                return
            server.sendall(asked)
            while not _is_whole_request(asked):
                more = client.recv(1 << 24)
                server.sendall(more)
                asked += more
            answer = server.recv(1 << 24)
            if b"\r\nEVAL\r\n" in asked and not lost.is_set():
                lost.set()
                meanwhile()
                return
            client.sendall(answer)


def _is_whole_request(asked: bytes) -> bool:
    """Whether all commands in there are complete: arrays of strings that tell their length (RESP)."""
    at = 0
    while at < len(asked):
        end = asked.find(b"\r\n", at)
        if end < 0:
            return False
        count, at = int(asked[at + 1 : end]), end + 2
        for _ in range(count):
            end = asked.find(b"\r\n", at)
            if end < 0:
                return False
            at = end + 2 + int(asked[at + 1 : end]) + 2
    return at == len(asked)
