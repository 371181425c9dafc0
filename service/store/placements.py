"""Which code each item that was added live has in a model version; once given, it stays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import StoreCorrupt, UnknownVersion
from .batches import batches
from .connection import Connection
from .keys import Keys
from .records import check_known

Code = tuple[int, ...]

_BATCH: Final = 1000  # items in one command

# ARGV: version, then id and code of each item. Answers "unknown", or for each item the code that it has, "" for none:
# another item has the one proposed.
_PLACE = """
local versions, codes, coded = unpack(KEYS)
if redis.call('HEXISTS', versions, ARGV[1]) == 0 then return 'unknown' end
local given = {}
for at = 2, #ARGV, 2 do
  local item, code = ARGV[at], ARGV[at + 1]
  local held = redis.call('HGET', codes, item)
  if not held and redis.call('HSETNX', coded, code, item) == 1 then
    redis.call('HSET', codes, item, code)
    held = code
  end
  given[#given + 1] = held or ''
end
return given
"""


@dataclass(frozen=True)
class Placements:
    """Reads and makes the placements of one namespace."""

    redis: Connection
    keys: Keys

    def read(self, version: str, item_ids: Iterable[str] | None) -> dict[str, Code]:
        """Errors as in `Store.placements`."""
        check_known(version)
        if item_ids is None:
            return self._all(version)
        ids = list(dict.fromkeys(item_ids))
        names = [item_id.encode(errors="surrogatepass") for item_id in ids]

        def ask(client: Any) -> list[list[bytes | None]]:
            pipe = client.pipeline(transaction=False)
            for some in batches(names, _BATCH):
                pipe.hmget(self.keys.codes(version), some)
            return list(pipe.execute())

        found = [value for some in self.redis.ask(ask) for value in some] if ids else []
        return {item_id: _code(value) for item_id, value in zip(ids, found, strict=True) if value is not None}

    def _all(self, version: str) -> dict[str, Code]:
        def scan(client: Any) -> dict[bytes, bytes]:
            return dict(client.hscan_iter(self.keys.codes(version), count=_BATCH))

        return {item_id.decode(): _code(value) for item_id, value in self.redis.ask(scan).items()}

    def place(self, version: str, codes: Mapping[str, Code]) -> dict[str, Code]:
        """Errors as in `Store.place`."""
        check_known(version)
        placed: dict[str, Code] = {}
        for some in batches(codes.items(), _BATCH):
            placed |= self._place(version, some)
        return placed

    def _place(self, version: str, codes: Iterable[tuple[str, Code]]) -> dict[str, Code]:
        ids = [item_id for item_id, _ in codes]
        keys = [self.keys.versions, self.keys.codes(version), self.keys.coded(version)]
        values = [version, *(value for item_id, code in codes for value in (item_id, ".".join(map(str, code))))]
        given = self.redis.ask(lambda client: client.eval(_PLACE, len(keys), *keys, *values))
        if given == b"unknown":
            raise UnknownVersion(f"no version named {version!r} is published")
        return {item_id: _code(value) for item_id, value in zip(ids, given, strict=True) if value}


def _code(value: bytes) -> Code:
    try:
        return tuple(int(token) for token in value.split(b"."))
    except ValueError:
        raise StoreCorrupt("the code of an added item in Redis is damaged") from None
