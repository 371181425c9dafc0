"""The Lua scripts that change the deployment in one step, or put a lost one back."""

from typing import Final

FIELDS: Final = ("version", "epoch", "previous", "pinned", "canary", "percent", "shadow", "reason", "at")
UNCHANGED: Final = "*"  # no version is called like that

# Answers: {word, detail, one value for each of FIELDS}; the words are ok, lost, none, unknown, idle, active and both.
# The tokens make a call that redis-py repeats after a lost answer find its own change instead of making it twice,
# whatever came between.
CHANGE: Final = """
local active, versions, events = unpack(KEYS)
local channel, token, move, name, condition, expected, reason, steps, canary, percent, shadow, kept, capped =
  unpack(ARGV)
local fields = {'version', 'epoch', 'previous', 'pinned', 'canary', 'percent', 'shadow', 'reason', 'at'}
local now = {}
for number, value in ipairs(redis.call('HMGET', active, unpack(fields))) do now[fields[number]] = value or '' end
if now.epoch == '' then now.epoch = '0' end
local from, tokens = now.version, redis.call('HGET', active, 'token') or ''

local function answer(word, detail)
  local told = {word, detail or ''}
  for _, field in ipairs(fields) do told[#told + 1] = now[field] end
  return told
end

local function published(version) return redis.call('HEXISTS', versions, version) == 1 end

local function names(text, without)
  local found = {}
  for one in string.gmatch(text, '[^,]+') do
    if one ~= without then found[#found + 1] = one end
  end
  return found
end

local function serve(version, trail)
  local short = {}
  for _, one in ipairs(trail) do
    if one ~= version and #short < tonumber(kept) then short[#short + 1] = one end
  end
  now.version, now.previous = version, table.concat(short, ',')
  if now.canary == version then now.canary, now.percent = '', '' end
  if now.shadow == version then now.shadow = '' end
end

local moves = {}

function moves.activate()
  if not published(name) then return 'unknown', name end
  if name == now.version then return 'ok' end
  local trail = names(now.previous)
  if now.version ~= '' then table.insert(trail, 1, now.version) end
  serve(name, trail)
end

function moves.rollback()
  if name ~= '' and name == now.version then return 'ok' end
  if name ~= '' and not published(name) then return 'unknown', name end
  local trail, passed = names(now.previous), 0
  while #trail > 0 do
    local one = table.remove(trail, 1)
    if published(one) then passed = passed + 1 end
    if one == name or (name == '' and passed == tonumber(steps)) then return serve(one, trail) end
  end
  return 'none', tostring(passed)
end

function moves.pin()
  if not published(name) then return 'unknown', name end
  local pinned = names(now.pinned, name)
  if #pinned < #names(now.pinned) then return 'ok' end
  pinned[#pinned + 1] = name
  now.pinned = table.concat(pinned, ',')
end

function moves.unpin()
  local pinned = names(now.pinned, name)
  if #pinned < #names(now.pinned) then now.pinned = table.concat(pinned, ',') return end
  if published(name) then return 'ok' end
  return 'unknown', name
end

function moves.traffic()
  if canary == '*' then canary, percent = now.canary, now.percent end
  if shadow == '*' then shadow = now.shadow end
  if canary == now.canary and percent == now.percent and shadow == now.shadow then return 'ok' end
  for role, version in pairs({canary = canary, shadow = shadow}) do
    if version ~= '' and not published(version) then return 'unknown', version end
    if version ~= '' and now.version == '' then return 'idle', role end
    if version ~= '' and version == now.version then return 'active', role end
  end
  if canary ~= '' and canary == shadow then return 'both', 'shadow' end
  now.canary, now.percent, now.shadow = canary, percent, shadow
end

if string.find(tokens, token, 1, true) then return answer('ok') end
if condition == 'if' and now.version ~= expected then return answer('lost') end
local word, detail = moves[move]()
if word then return answer(word, detail) end
local time = redis.call('TIME')
now.epoch, now.reason = string.format('%d', tonumber(now.epoch) + 1), reason
now.at = string.format('%d.%06d', tonumber(time[1]), tonumber(time[2]))
local values = {'token', string.sub(token .. ',' .. tokens, 1, 16 * (#token + 1))}
for _, field in ipairs(fields) do
  values[#values + 1] = field
  values[#values + 1] = now[field]
end
redis.call('HSET', active, unpack(values))
redis.call('XADD', events, 'MAXLEN', '~', capped, '*', 'reason', reason, 'version', now.version, 'from', from,
  'epoch', now.epoch, 'pinned', now.pinned, 'canary', now.canary, 'percent', now.percent, 'shadow', now.shadow)
redis.call('PUBLISH', channel, now.version .. ' ' .. now.epoch)
return answer('ok')
"""

# ARGV: channel, a token, how many events are kept, and a value for each of FIELDS but `at`. Answers ok, or there: Redis
# has a deployment.
RESTORE: Final = """
local active, events = unpack(KEYS)
local channel, token, capped, version, epoch, previous, pinned, canary, percent, shadow, reason = unpack(ARGV)
if redis.call('HGET', active, 'token') == token then return 'ok' end
if redis.call('EXISTS', active) == 1 then return 'there' end
local time = redis.call('TIME')
redis.call('HSET', active, 'token', token, 'version', version, 'epoch', epoch, 'previous', previous, 'pinned', pinned,
  'canary', canary, 'percent', percent, 'shadow', shadow, 'reason', reason,
  'at', string.format('%d.%06d', tonumber(time[1]), tonumber(time[2])))
redis.call('XADD', events, 'MAXLEN', '~', capped, '*', 'reason', reason, 'version', version, 'from', '',
  'epoch', epoch, 'pinned', pinned, 'canary', canary, 'percent', percent, 'shadow', shadow)
redis.call('PUBLISH', channel, version .. ' ' .. epoch)
return 'ok'
"""
