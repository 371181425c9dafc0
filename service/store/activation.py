"""Which version is active: changed by compare-and-set inside Redis, so that two operators cannot undo each other."""

from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import uuid4

from ..errors import LostRace, NoPrevious, StoreCorrupt, UnknownVersion
from .connection import Connection
from .keys import Keys
from .records import Active, check_known

KEPT_PREVIOUS: Final = 16
KEPT_EVENTS: Final = 1000


class Unconditional(Enum):
    """The type of `ANY`, since None already means "nothing is active"."""

    ANY = "any"


ANY: Final = Unconditional.ANY

# `move` is "to" the wanted version, or "back". Answers: {ok | lost | unknown | none, version, epoch, previous}.
# The token makes a call that redis-py repeats after a lost answer find its own change instead of losing to itself.
_CHANGE = """
local active, versions, events = unpack(KEYS)
local channel, token, move, wanted, condition, expected, kept, capped = unpack(ARGV)
local version, epoch, previous, last = unpack(redis.call('HMGET', active, 'version', 'epoch', 'previous', 'token'))
version, epoch, previous = version or '', epoch or '0', previous or ''
local function answer(word) return {word, version, epoch, previous} end
if last == token then return answer('ok') end
if condition == 'if' and version ~= expected then return answer('lost') end
local trail = {}
for name in string.gmatch(previous, '[^,]+') do trail[#trail + 1] = name end
if move == 'back' then
  while #trail > 0 and wanted == '' do
    local name = table.remove(trail, 1)
    if redis.call('HEXISTS', versions, name) == 1 then wanted = name end
  end
  if wanted == '' then return answer('none') end
else
  if redis.call('HEXISTS', versions, wanted) == 0 then return answer('unknown') end
  if wanted == version then return answer('ok') end
  if version ~= '' then table.insert(trail, 1, version) end
end
local short = {}
for _, name in ipairs(trail) do
  if name ~= wanted and #short < tonumber(kept) then short[#short + 1] = name end
end
local from = version
version, epoch, previous = wanted, string.format('%d', tonumber(epoch) + 1), table.concat(short, ',')
redis.call('HSET', active, 'version', version, 'epoch', epoch, 'previous', previous, 'token', token)
redis.call('XADD', events, 'MAXLEN', '~', capped, '*',
  'event', move == 'back' and 'rollback' or 'activate', 'version', version, 'from', from, 'epoch', epoch)
redis.call('PUBLISH', channel, version .. ' ' .. epoch)
return answer('ok')
"""


@dataclass(frozen=True)
class Activation:
    """Reads and changes the active version of one namespace."""

    redis: Connection
    keys: Keys

    def read(self) -> Active | None:
        """None where there is none. Raises StoreUnavailable, StoreCorrupt."""
        found: dict[bytes, bytes] = self.redis.ask(lambda client: client.hgetall(self.keys.active))
        if not found:
            return None
        try:
            return _active(found[b"version"], found[b"epoch"], found[b"previous"])
        except (KeyError, ValueError):
            raise StoreCorrupt("what Redis holds as the active version is damaged; activate one again") from None

    def change(self, wanted: str | None, if_active: str | Unconditional | None) -> Active:
        """Activates `wanted`, or with None goes back. Raises LostRace, UnknownVersion, NoPrevious."""
        if wanted is not None:
            check_known(wanted)
        move = ["back", ""] if wanted is None else ["to", wanted]
        keys = [self.keys.active, self.keys.versions, self.keys.events]
        condition = ["any", ""] if isinstance(if_active, Unconditional) else ["if", if_active or ""]
        values = [self.keys.changes, uuid4().hex, *move, *condition, KEPT_PREVIOUS, KEPT_EVENTS]
        word, version, epoch, previous = self.redis.ask(lambda client: client.eval(_CHANGE, len(keys), *keys, *values))
        if word == b"ok":
            return _active(version, epoch, previous)
        raise _refusal(word, wanted, version.decode() or None)


def _active(version: bytes, epoch: bytes, previous: bytes) -> Active:
    return Active(version.decode(), int(epoch), tuple(previous.decode().split(",")) if previous else ())


def _refusal(word: bytes, wanted: str | None, active: str | None) -> LostRace | UnknownVersion | NoPrevious:
    if word == b"lost":
        return LostRace(
            f"another change came first: {f'version {active}' if active else 'nothing'} is active now", active
        )
    if word == b"none":
        return NoPrevious("no earlier version is left to roll back to")
    return UnknownVersion(f"no version named {wanted!r} is published")
