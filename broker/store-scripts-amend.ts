/**
 * The Lua for corrected results, beside `store-scripts.ts`. What is where:
 *
 *   <ns>:amended:<id>    hash, the versions of a reply from 2 on: `n` the newest, `r` its rank; of version v `m<v>` (json), `b<v>` (body),
 *                        `d<v>` (the body's digest), `r<v>` (its rank), `s<v>` once it is shown
 *
 * In the record `ver` is the newest version that is shown, and `miss` how many are missing in it. In a group `late` lists the parts that
 * came when it was complete, in their order: part n is `lm<n>` (json) and `lb<n>` (body). Nothing of it is there, or looked at, where nothing
 * came late.
 */
import { group, request } from './store-scripts.js';

/** KEYS[5]: the versions. */
const versions = `${request}
local amended = KEYS[5]

local function stored(result, version)
  local has = redis.call('HMGET', amended, 'm' .. version, 'b' .. version)
  return { result, version, has[1], has[2] }
end

local function keep(version, rank, digest, meta, body)
  redis.call('HSET', amended, 'm' .. version, meta, 'b' .. version, body, 'd' .. version, digest, 'r' .. version, rank)
  local newest = tonumber(redis.call('HGET', amended, 'n') or 1)
  if version > newest then redis.call('HSET', amended, 'n', version, 'r', rank) end
  redis.call('PEXPIRE', amended, redis.call('PTTL', record))
end

local function showVersion(version)
  local meta = redis.call('HGET', amended, 'm' .. version)
  if not meta or redis.call('HSETNX', amended, 's' .. version, 1) == 0 then return end
  local said = cjson.decode(meta)
  if version > tonumber(redis.call('HGET', record, 'ver') or 1) then
    redis.call('HSET', record, 'ver', version, 'miss', said.missing)
  end
  redis.call('HSET', record, 'upd', now())
  append('amended', string.format('{"version":%d,"by":%s,"missing":%d}', version, cjson.encode(said.by), said.missing))
  wake()
end
`;

/** ARGV: rank, digest of the body, what is known of it (json), body. */
const amend = `${versions}
local rank = tonumber(ARGV[3])
local has = redis.call('HMGET', record, 'state', 'kind', 'shown', 'hash', 'late')
if not has[1] then return { 'unknown' } end
if not has[2] or not has[3] then return { 'early' } end
if has[2] ~= 'reply' or not has[5] then return { 'stale' } end
local last = redis.call('HMGET', amended, 'n', 'r')
local newest, newestRank = tonumber(last[1] or 1), tonumber(last[2] or 0)
if rank <= newestRank then
  for version = 2, newest do
    if tonumber(redis.call('HGET', amended, 'r' .. version)) == rank then return stored('amended', version) end
  end
  return { 'stale' }
end
if newest > 1 and redis.call('HEXISTS', amended, 's' .. newest) == 0 then return stored('behind', newest) end
local before = newest == 1 and has[4] or redis.call('HGET', amended, 'd' .. newest)
if before == ARGV[4] then return { 'same' } end
keep(newest + 1, rank, ARGV[4], ARGV[5], ARGV[6])
return stored('amended', newest + 1)
`;

/** ARGV: version. */
const showAmendment = `${versions}
showVersion(tonumber(ARGV[3]))
`;

/** ARGV: version, rank, digest, what is known of it (json), body. */
const restoreAmendment = `${versions}
local version = tonumber(ARGV[3])
if redis.call('HGET', record, 'kind') ~= 'reply' then return end
if redis.call('HEXISTS', amended, 's' .. version) == 0 then keep(version, tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]) end
showVersion(version)
`;

/** ARGV: version, or '' for the newest. */
const amendment = `${versions}
local version = tonumber(ARGV[3]) or tonumber(redis.call('HGET', record, 'ver') or 1)
if redis.call('HEXISTS', amended, 's' .. version) == 0 then return {} end
return stored('amended', version)
`;

/** ARGV: index, what is known of the part (json), body. */
const addLatePart = `${group}
local index = ARGV[1]
if state and state ~= 'open' and redis.call('HEXISTS', group, 'm' .. index) == 0 then
  if redis.call('HSETNX', group, 'lm' .. index, ARGV[2]) == 1 then
    local late = redis.call('HGET', group, 'late')
    redis.call('HSET', group, 'lb' .. index, ARGV[3], 'late', late and late .. ' ' .. index or index)
  end
end
return redis.call('HGETALL', group)
`;

export const amendScripts = { amend, showAmendment, restoreAmendment, amendment, addLatePart } as const;
