"""Which users a canary gets: always the same ones, on every replica, and more of them as its share grows."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

_DIGEST_BYTES: Final = 8
_RANGE: Final = 1 << (8 * _DIGEST_BYTES)
_HUNDRED: Final = 100.0


def sticky_key(user_id: str | None, history: Sequence[str]) -> bytes:
    """What a request is told apart by: its user, or without one its history."""
    if user_id is not None:
        return b"user\0" + user_id.encode()
    return b"history\0" + "\0".join(history).encode()


def chosen(key: bytes, percent: float) -> bool:
    """Whether the canary with that share of the users gets `key`; depends on nothing else."""
    place = int.from_bytes(blake2b(key, digest_size=_DIGEST_BYTES).digest()) / _RANGE  # 0 … 1
    return place < percent / _HUNDRED
