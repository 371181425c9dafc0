"""The Lua scripts that change the catalog in one step, put a lost one back, and read what has changed at one moment."""

from typing import Final

# ARGV: channel, token, revision and era that were read, an era to begin where there is none; then for each item its id,
# the revision of its record that was read ("" for none), and its new record.
# Answers {ok, revision made, its era} or {lost, revision}: one of the items has changed meanwhile, nothing was written.
# Changes of other items do not matter: a change of ten thousand items is not starved by many small ones.
CHANGE: Final = """
local catalog, items, changed = unpack(KEYS)
local channel, token, seen, seen_era, new_era = unpack(ARGV, 1, 5)
local revision, era, tokens = unpack(redis.call('HMGET', catalog, 'revision', 'era', 'tokens'))
revision, era, tokens = revision or '0', era or '', tokens or ''
local made = string.match(tokens, token .. ':(%d+)')
if made then return {'ok', made, era} end
if era ~= seen_era then return {'lost', revision} end
if revision ~= seen then
  for at = 6, #ARGV, 3 do
    local held = redis.call('HGET', items, ARGV[at])
    if (held and string.match(held, '^%d+') or '') ~= ARGV[at + 1] then return {'lost', revision} end
  end
end
made = string.format('%d', tonumber(revision) + 1)
for at = 6, #ARGV, 3 do
  redis.call('HSET', items, ARGV[at], made .. ' ' .. ARGV[at + 2])
  redis.call('ZADD', changed, made, ARGV[at])
end
local kept = {token .. ':' .. made}
for one in string.gmatch(tokens, '[^,]+') do
  if #kept < 16 then kept[#kept + 1] = one end
end
if era == '' then era = new_era end
redis.call('HSET', catalog, 'revision', made, 'era', era, 'tokens', table.concat(kept, ','))
redis.call('PUBLISH', channel, made)
return {'ok', made, era}
"""

# KEYS: catalog, items, changed, and the two that are to become the latter. ARGV: channel, revision, era, item count.
# Answers {ok}; {there, revision}: the catalog is not lost; {late}: not all that was sent is there. Only ok has changed
# anything.
RESTORE: Final = """
local catalog, items, changed, staged_items, staged_changed = unpack(KEYS)
local channel, revision, era, count = unpack(ARGV)
local known, held = unpack(redis.call('HMGET', catalog, 'revision', 'era'))
if held == era then return {'ok'} end
if known then return {'there', known} end
if redis.call('HLEN', staged_items) ~= tonumber(count) or redis.call('ZCARD', staged_changed) ~= tonumber(count) then
  return {'late'}
end
for staged, key in pairs({[staged_items] = items, [staged_changed] = changed}) do
  redis.call('DEL', key)
  if redis.call('EXISTS', staged) == 1 then
    redis.call('PERSIST', staged)
    redis.call('RENAME', staged, key)
  end
end
redis.call('HSET', catalog, 'revision', revision, 'era', era)
redis.call('PUBLISH', channel, revision)
return {'ok'}
"""

# ARGV: the revision and era ("*": any) that are known, and how many items are still told one by one.
# Answers {whole, revision, era}, or {part, revision, era, record, …} where the records are all of one moment.
SINCE: Final = """
local catalog, items, changed = unpack(KEYS)
local since, known_era, limit = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local revision, era = unpack(redis.call('HMGET', catalog, 'revision', 'era'))
revision, era = revision or '0', era or ''
local whole = {'whole', revision, era}
if since <= 0 or since > tonumber(revision) or (known_era ~= '*' and known_era ~= era) then return whole end
local told = {'part', revision, era}
if since == tonumber(revision) then return told end
if redis.call('ZCOUNT', changed, '(' .. ARGV[1], '+inf') > limit then return whole end
local ids = redis.call('ZRANGEBYSCORE', changed, '(' .. ARGV[1], '+inf')
for first = 1, #ids, 1000 do
  for _, record in ipairs(redis.call('HMGET', items, unpack(ids, first, math.min(first + 999, #ids)))) do
    if record then told[#told + 1] = record end
  end
end
return told
"""
