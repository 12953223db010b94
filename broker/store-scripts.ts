/**
 * The Lua of the Redis store: one script per transition, so that each happens whole or not at all. What is where:
 *
 *   <ns>:request:<id>    hash, the record; short values, so that a pending one stays in Redis' compact encoding
 *   <ns>:events:<id>     list of `<at> <name> <json>`; the last one's sequence is `seq` of the record
 *   <ns>:claim:<digest>  id of the request that has the idempotency key
 *   <ns>:supersede:<key> sorted set of the ids without outcome that supersede one another, in the order in which they came
 *   <ns>:deadlines       sorted set of the ids without outcome, by deadline
 *   <ns>:owed            sorted set of the ids whose outcome is not yet shown or forwarded, by when they were settled
 *   <ns>:group:<id>      hash, a group; part n is `m<n>` (json) and `b<n>` (body)
 *   <ns>:bells           sorted set of the ids of groups that are not done and were not rung for, by deadline
 *   <ns>:wake            channel: ids of requests that changed
 *   <ns>:complete:<run>  there while the state is complete, as far as the Redis server of that run id knows: one that was
 *                        restarted, restored or promoted has another run id, an emptied one has no such key
 *   <ns>:complete        that run id
 *   <ns>:position        when everything journalled was in the state
 *
 * The last key of each script is the one that must exist for it to run: `complete:<run>`, or, for whoever rebuilds, the lease.
 * Every script may run twice: a client that lost its connection does not know whether the first one ran. The first write
 * of each that adds is one that a full Redis refuses (HSET, SET): it refuses none after another write, so it is all or
 * nothing. The clock is Redis' own. Keys that are known beforehand are declared; the others are found by what a key says.
 */
import { longPendingMs, stateOf } from './store.js';

export const maxEvents = 500;

const clock = `
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
`;

/** What a client sees who must not go by the state. */
export const incomplete = 'INCOMPLETE';

/** The beginning of each script. KEYS[#KEYS]: what must be there. */
export const gate = `
if redis.call('EXISTS', KEYS[#KEYS]) == 0 then return redis.error_reply('${incomplete} the state was lost or is an older copy') end
${clock}`;

/** KEYS: record, events, deadlines, owed. ARGV: id, namespace, then the script's own from 3. */
export const request = `${gate}
local record, events, deadlines, owed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, ns = ARGV[1], ARGV[2]
local stateOf = { ${Object.entries(stateOf)
  .map(([kind, state]) => `${kind} = '${state}'`)
  .join(', ')} }

local function wake()
  redis.call('PUBLISH', ns .. ':wake', id)
end

-- An event that says what the last one said is the same one, told again.
local function append(name, data)
  local said = name .. ' ' .. data
  local last = redis.call('LINDEX', events, -1)
  if last and string.sub(last, string.find(last, ' ', 1, true) + 1) == said then return end
  local sequence = redis.call('HINCRBY', record, 'seq', 1)
  local length = redis.call('RPUSH', events, string.format('%.0f', now()) .. ' ' .. said)
  if length == 1 then redis.call('PEXPIRE', events, redis.call('PTTL', record)) end
  if length > ${maxEvents} then redis.call('LTRIM', events, -${maxEvents}, -1) end
end

-- Record, events and claim go together.
local function expire(at)
  local claim = redis.call('HGET', record, 'claim')
  redis.call('PEXPIREAT', record, at)
  redis.call('PEXPIREAT', events, at)
  if claim and redis.call('GET', ns .. ':claim:' .. claim) == id then redis.call('PEXPIREAT', ns .. ':claim:' .. claim, at) end
end

-- Those that a newer one of their key takes the place of.
local function line()
  local key = redis.call('HGET', record, 'sup')
  return key and ns .. ':supersede:' .. key
end

local function leaveLine()
  local key = line()
  if key then redis.call('ZREM', key, id) end
end

local function paid()
  local left = redis.call('HMGET', record, 'shown', 'fwdq', 'fwdd')
  if left[1] and (not left[2] or left[3]) then redis.call('ZREM', owed, id) end
end

-- ARGV from 'first' on: fields of the outcome.
local function decide(kind, digest, at, retention, first)
  redis.call('HSET', record, 'kind', kind, 'hash', digest, unpack(ARGV, first))
  redis.call('ZREM', deadlines, id)
  leaveLine()
  redis.call('ZADD', owed, at, id)
  expire(at + retention)
end

local function show(retention)
  local has = redis.call('HMGET', record, 'kind', 'shown')
  if not has[1] or has[2] then return end
  local state, at = stateOf[has[1]], now()
  redis.call('HSET', record, 'shown', 1, 'state', state, 'upd', at)
  redis.call('HDEL', record, 'wait')
  append('outcome', '{"state":"' .. state .. '","kind":"' .. has[1] .. '"}')
  expire(at + retention)
  paid()
  wake()
end
`;

/**
 * KEYS[5]: claim. ARGV: retention, '1' with a claim, when it was accepted if it is restored, deadline, `state` event's data, then fields of the record.
 * Returns who is there with what it is, or false. Restored, the claim is that of the one accepted later: returns who else had it, and '1' if that one keeps it.
 */
const create = `${request}
local claim, retention, claims, restored, deadline = KEYS[5], tonumber(ARGV[3]), ARGV[4] == '1', tonumber(ARGV[5]), tonumber(ARGV[6])
local function found(one, key, fields)
  local has = redis.call('HMGET', key, 'kind', 'pub', 'state')
  if not has[1] and not has[2] and has[3] == 'accepted' then redis.call('HSET', key, 'rep', 1) end
  return { one, fields }
end
local isThere = redis.call('EXISTS', record) == 1
if isThere and not restored then return found(id, record, redis.call('HGETALL', record)) end
local holder = claims and redis.call('GET', claim)
local held = holder and redis.call('HGETALL', ns .. ':request:' .. holder) or {}
if #held > 0 and not restored then return found(holder, ns .. ':request:' .. holder, held) end
local at = now()
local expires = math.max(deadline, at) + retention
if not isThere then
  redis.call('HSET', record, 'upd', at, unpack(ARGV, 8))
  redis.call('DEL', events)
  redis.call('PEXPIREAT', record, expires)
end
local tries = restored and redis.call('HMGET', record, 'again', 'at')
if restored and restored > tonumber(tries[1] or tries[2]) then redis.call('HSET', record, 'again', restored) end
local other = #held > 0 and holder ~= id
local isLater = other and tonumber(redis.call('HGET', ns .. ':request:' .. holder, 'at')) > tonumber(redis.call('HGET', record, 'at'))
if claims and not isLater then
  redis.call('SET', claim, id)
  redis.call('PEXPIRE', claim, redis.call('PTTL', record))
end
if isThere then return other and { holder, isLater and '1' or '' } end
redis.call('ZADD', deadlines, deadline, id)
local key = line()
if key then
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  redis.call('ZADD', key, (tonumber(last[2]) or 0) + 1, id)
  redis.call('PEXPIRE', key, math.max(redis.call('PTTL', key), expires - at))
end
append('state', ARGV[7])
wake()
return other and { holder, isLater and '1' or '' }
`;

/** ARGV: '1' to leave it when the broker has it, after when no try was accepted, or ''. */
const discard = `${request}
local has = redis.call('HMGET', record, 'kind', 'claim', 'pub', 'state', 'again', 'at')
if has[6] and ARGV[4] ~= '' and tonumber(has[5] or has[6]) > tonumber(ARGV[4]) then return end
if has[1] or ARGV[3] == '1' and (has[3] or has[4] ~= 'accepted') then return end
redis.call('ZREM', deadlines, id)
leaveLine()
if has[2] and redis.call('GET', ns .. ':claim:' .. has[2]) == id then redis.call('DEL', ns .. ':claim:' .. has[2]) end
if redis.call('DEL', record, events) > 0 then wake() end
`;

/** ARGV: state or '', its event's data, '1' to clear what it waits for, event's name or '', its data, the state it must be in or '', then fields of the record. */
const report = `${request}
local state, clear, name, from = ARGV[3], ARGV[5], ARGV[6], ARGV[8]
local has = redis.call('HMGET', record, 'state', 'kind')
if not has[1] then return 0 end
if has[2] or from ~= '' and from ~= has[1] then return 1 end
redis.call('HSET', record, 'upd', now(), unpack(ARGV, 9))
if clear == '1' then redis.call('HDEL', record, 'wait') end
if state ~= '' and state ~= has[1] then
  redis.call('HSET', record, 'state', state)
  append('state', ARGV[4])
end
if name ~= '' then append(name, ARGV[7]) end
wake()
return 1
`;

/** ARGV: retention, '1' to show it at once, kind, digest of the body, then fields of the outcome. */
const settle = `${request}
local retention, visible, kind, digest = tonumber(ARGV[3]), ARGV[4] == '1', ARGV[5], ARGV[6]
local has = redis.call('HMGET', record, 'state', 'kind', 'hash', 'det', 'at', 'rep')
if not has[1] then return 'unknown' end
if has[2] and (has[2] ~= kind or has[3] ~= digest) then return 'late' end
local at = now()
if not has[2] then decide(kind, digest, at, retention, 7) end
if visible and not has[4] and not has[6] and at - has[5] < ${longPendingMs} then show(retention) end
return has[2] and 'same' or 'won'
`;

/** ARGV: retention, where it is from, kind, digest of the body, then fields of the outcome. */
const restoreOutcome = `${request}
local retention, from, kind, digest = tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local has = redis.call('HMGET', record, 'state', 'kind', 'hash', 'found', 'shown', 'det')
if not has[1] then return end
-- Of a request that got its record after it was asked, the journal must be told the record with the outcome: so it is owed.
local isOwed = from == 'reply' and has[6]
if has[2] then
  local givesWay = not has[5]
  if has[4] then givesWay = from == 'correction' or has[4] == 'reply' and from ~= 'reply' end
  local isSame = has[2] == kind and has[3] == digest
  if givesWay then redis.call('HSET', record, 'found', from) end
  if isSame and not isOwed then show(retention) end
  if isSame or not givesWay then return end
end
redis.call('HDEL', record, 'shown', 'enc', 'parts', 'late')
decide(kind, digest, now(), retention, 7)
redis.call('HSET', record, 'found', from)
if not isOwed then show(retention) end
`;

/** ARGV: retention, kind, digest of the body. */
const showOutcome = `${request}
local has = redis.call('HMGET', record, 'kind', 'hash')
if has[1] ~= ARGV[4] or has[2] ~= ARGV[5] then return 0 end
show(tonumber(ARGV[3]))
return 1
`;

const forwarded = `${request}
if redis.call('HEXISTS', record, 'kind') == 0 then return end
redis.call('HSET', record, 'fwdd', 1)
paid()
`;

/** Ids of those that came before it. */
const superseded = `${request}
local key = line()
local place = key and redis.call('ZSCORE', key, id)
return place and redis.call('ZRANGEBYSCORE', key, '-inf', '(' .. place) or {}
`;

/** ARGV: at. */
const carried = `${request}
if redis.call('EXISTS', record) == 1 then redis.call('HSET', record, 'carr', ARGV[3]) end
`;

/** ARGV: sequence. Returns the sequence before the first one, then the events. */
const eventsAfter = `${request}
local last, after = tonumber(redis.call('HGET', record, 'seq') or 0), tonumber(ARGV[3])
local before = last - redis.call('LLEN', events)
-- They were lost, and counted anew.
if after > last then after = 0 end
local from = math.max(after - before, 0)
return { before + from, redis.call('LRANGE', events, from, -1) }
`;

/** KEYS: the sorted set. ARGV: namespace, how long ago, limit. An id whose record is gone is dropped on the way. */
const oldest = `${gate}
local found, skip, limit = {}, 0, tonumber(ARGV[3])
local latest = now() - tonumber(ARGV[2])
while #found < limit do
  local page = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', latest, 'LIMIT', skip, limit - #found)
  if #page == 0 then break end
  for _, id in ipairs(page) do
    if redis.call('EXISTS', ARGV[1] .. ':request:' .. id) == 1 then
      found[#found + 1] = id
      skip = skip + 1
    else
      redis.call('ZREM', KEYS[1], id)
    end
  end
end
return found
`;

/** KEYS: the deadlines. ARGV: namespace, how long ago, rank to begin with, how many. Returns how many it looked at, then ids. */
const uncarried = `${gate}
local latest, from = now() - tonumber(ARGV[2]), tonumber(ARGV[3])
local page, found = redis.call('ZRANGE', KEYS[1], from, from + tonumber(ARGV[4]) - 1), {}
for _, id in ipairs(page) do
  local told = redis.call('HMGET', ARGV[1] .. ':request:' .. id, 'carr', 'at')
  if told[2] and tonumber(told[1] or told[2]) <= latest then found[#found + 1] = id end
end
return { #page, found }
`;

/** KEYS: the group. ARGV from 1: the script's own. A group that is gone answers with an empty hash. */
export const group = `${gate}
local group = KEYS[1]
local state = redis.call('HGET', group, 'state')
local function close(reason)
  redis.call('HSET', group, 'state', 'closed', 'reason', reason)
end
`;

/** KEYS[2]: the bells. ARGV: id, retention, deadline, then fields of the group. */
const openGroup = `${group}
if state then return end
local at = now()
redis.call('HSET', group, 'state', 'open', 'n', 0, 'touched', at, unpack(ARGV, 4))
redis.call('PEXPIREAT', group, math.max(tonumber(ARGV[3]), at) + tonumber(ARGV[2]))
if redis.call('HEXISTS', group, 'bell') == 1 then redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1]) end
`;

/**
 * ARGV: how many are enough, '1' to see it while it is open, then of each part its index, what is known of it (json), its body. Returns
 * how many parts came while it was open, whether it still is, then the group.
 */
const addParts = `${group}
local taken = 0
if state == 'open' then
  local enough, has = tonumber(ARGV[1]), redis.call('HMGET', group, 'n', 'size')
  local count, size, fields = tonumber(has[1]), tonumber(has[2]), {}
  for at = 3, #ARGV, 3 do
    taken = taken + 1
    local known = 'm' .. ARGV[at]
    if not fields[known] and redis.call('HEXISTS', group, known) == 0 then
      fields[known] = true
      count = count + 1
      redis.call('HSET', group, known, ARGV[at + 1], 'b' .. ARGV[at], ARGV[at + 2], 'n', count, 'touched', now())
    end
    if count >= enough then
      close(count >= size and 'all' or 'at-least')
      state = 'closed'
      break
    end
  end
end
if state == 'open' and ARGV[2] ~= '1' then return { taken, 1 } end
return { taken, state == 'open' and 1 or 0, redis.call('HGETALL', group) }
`;

/** ARGV: reason. */
const closeGroup = `${group}
if state == 'open' then close(ARGV[1]) end
return redis.call('HGETALL', group)
`;

/** KEYS[2]: the bells. ARGV: id. */
const groupDone = `${group}
if not state then return end
redis.call('HSET', group, 'state', 'done')
redis.call('HDEL', group, 'bell')
redis.call('ZREM', KEYS[2], ARGV[1])
`;

/** KEYS: the bells. ARGV: namespace, limit. Returns pairs of id and bell, then in how many ms the next one's time comes. A group that is gone is dropped on the way. */
const bells = `${gate}
local at, due = now(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', at, 'LIMIT', 0, ARGV[2])) do
  local bell = redis.call('HGET', ARGV[1] .. ':group:' .. id, 'bell')
  if bell then due[#due + 1] = { id, bell } else redis.call('ZREM', KEYS[1], id) end
end
local after = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. at, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
return { due, after and after - at }
`;

/** KEYS: the bells. ARGV: ids. */
const rung = `${gate}
for _, id in ipairs(ARGV) do redis.call('ZREM', KEYS[1], id) end
`;

/** KEYS: the topic. ARGV: at, properties (json), body. */
const remember = `${gate}
local known = redis.call('HGET', KEYS[1], 'at')
if known and tonumber(known) > tonumber(ARGV[1]) then return end
redis.call('HSET', KEYS[1], 'at', ARGV[1], 'props', ARGV[2], 'body', ARGV[3])
`;

/** KEYS: what is parked. ARGV: value, ms. */
const park = `${gate}
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
`;

/** KEYS: position. */
const mark = `${gate}
redis.call('SET', KEYS[1], string.format('%.0f', now()))
`;

/** KEYS: the run id on record, position, lease. ARGV: namespace, run id, holder of the lease. */
const complete = `${clock}
if redis.call('GET', KEYS[3]) ~= ARGV[3] then return redis.error_reply('${incomplete} somebody else rebuilds the state') end
local before = redis.call('GET', KEYS[1])
if before then redis.call('DEL', KEYS[1] .. ':' .. before) end
redis.call('SET', KEYS[2], string.format('%.0f', now()))
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[1] .. ':' .. ARGV[2], 1)
redis.call('DEL', KEYS[3])
`;

/** KEYS: the lease. ARGV: holder, ms, '1' to renew it only. */
const lease = `
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] or not holder and ARGV[3] == '1' then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`;

export const scripts = {
  create,
  discard,
  report,
  settle,
  restoreOutcome,
  superseded,
  uncarried,
  carried,
  park,
  mark,
  complete,
  show: showOutcome,
  forwarded,
  events: eventsAfter,
  oldest,
  openGroup,
  addParts,
  closeGroup,
  groupDone,
  bells,
  rung,
  remember,
  lease,
} as const;
