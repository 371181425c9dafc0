"""What tests look at, and break, in Redis beneath a store."""

from service.store import Store
from service.store.fetch import Fetcher


def stored_keys(store: Store) -> set[bytes]:
    return set(store.redis.client.scan_iter(match=f"{{{store.keys.namespace}}}:*", count=1000))


def chunk_key(store: Store, version: str, file: str, number: int = 0) -> str:
    return store.keys.chunk(version, Fetcher(store.redis, store.keys).record(version).upload, file, number)


def flip_a_byte(store: Store, key: str) -> None:
    first = store.redis.client.getrange(key, 0, 0)
    store.redis.client.setrange(key, 0, bytes([first[0] ^ 1]))
