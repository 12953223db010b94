/**
 * The Lua of dossiers in Redis; the rules of `store-scripts.ts` hold. What is where:
 *
 *   <ns>:dossier:<kind>/<id>   hash; the data as JSON, the message as properties and body
 *   <ns>:index:<name>          sorted set of `<kind>/<id>`, by their place in this list
 *   <ns>:dossiers:wakeable     sorted set of those that somebody must look at, by when
 *   <ns>:dossiers:untold       sorted set of those that the journal must be told of, by since when
 */
import { gate } from './store-scripts.js';
import { untoldMs } from './store.js';

const dossiers = `${gate}
local ns = ARGV[1]
local function hashOf(ref) return ns .. ':dossier:' .. ref end
local function indexOf(name) return ns .. ':index:' .. name end
`;

/** KEYS: dossier, wakeable, untold. */
const dossier = `${dossiers}
local dossier, wakeable, untold = KEYS[1], KEYS[2], KEYS[3]
local ref, version = ARGV[2], tonumber(ARGV[3])
`;

/** ARGV from 4: '1' to restore, digest of all that follows, '1' when open, when to wake or '', lists (json), retention, then fields. Returns 1 when kept. */
const keep = `${dossier}
local restores, digest, open, wakeAt = ARGV[4] == '1', ARGV[5], ARGV[6] == '1', ARGV[7]
local has = redis.call('HMGET', dossier, 'v', 'hash', 'idx', 'told')
local known = tonumber(has[1] or 0)
if known == version and has[2] == digest then return 1 end
if restores then
  if known >= version then return 0 end
elseif known ~= version - 1 then
  return 0
end
redis.call('HSET', dossier, 'v', version, 'hash', digest, 'open', ARGV[6], 'wake', wakeAt, 'idx', ARGV[8], 'told', restores and version or has[4] or 0, unpack(ARGV, 10))
local lists = cjson.decode(ARGV[8])
for name in pairs(cjson.decode(has[3] or '{}')) do
  if lists[name] == nil then redis.call('ZREM', indexOf(name), ref) end
end
for name, place in pairs(lists) do redis.call('ZADD', indexOf(name), string.format('%.17g', place), ref) end
if wakeAt == '' then redis.call('ZREM', wakeable, ref) else redis.call('ZADD', wakeable, wakeAt, ref) end
redis.call('ZADD', untold, restores and now() or now() + ${untoldMs}, ref)
if open then redis.call('PERSIST', dossier) else redis.call('PEXPIRE', dossier, ARGV[9]) end
redis.call('PUBLISH', ns .. ':wake', ref)
return 1
`;

/** ARGV[4]: ms. Returns 1 when whoever asks is to call. */
const calling = `${dossier}
local has = redis.call('HMGET', dossier, 'v', 'wake')
local at = tonumber(redis.call('ZSCORE', wakeable, ref))
if tonumber(has[1] or 0) ~= version or at == nil then return 0 end
if at ~= tonumber(has[2]) and at > now() then return 0 end
redis.call('ZADD', wakeable, now() + ARGV[4], ref)
return 1
`;

/** ARGV[4]: ms. */
const called = `${dossier}
local has = redis.call('HMGET', dossier, 'v', 'wake')
if tonumber(has[1] or 0) == version and has[2] ~= '' then redis.call('ZADD', wakeable, 'XX', now() + ARGV[4], ref) end
`;

/** ARGV[4]: ms. */
const told = `${dossier}
local has = redis.call('HMGET', dossier, 'v', 'open')
if tonumber(has[1] or 0) ~= version then return end
redis.call('HSET', dossier, 'told', version)
if has[2] == '1' then redis.call('ZADD', untold, 'XX', now() + ARGV[4], ref) else redis.call('ZREM', untold, ref) end
`;

/** KEYS: wakeable or untold. ARGV: namespace, limit, '1' without those that the journal must be told of first. Returns names and hashes; a name without hash is dropped on the way. */
const dossiersBefore = `${dossiers}
local found, skip, limit = {}, 0, tonumber(ARGV[2])
while #found < limit do
  local page = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now(), 'LIMIT', skip, limit - #found)
  if #page == 0 then break end
  for _, ref in ipairs(page) do
    local has = redis.call('HMGET', hashOf(ref), 'v', 'told')
    if has[1] and ARGV[3] == '1' and has[1] ~= has[2] then
      skip = skip + 1
    elseif has[1] then
      found[#found + 1] = { ref, redis.call('HGETALL', hashOf(ref)) }
      skip = skip + 1
    else
      redis.call('ZREM', KEYS[1], ref)
    end
  end
end
return found
`;

/** KEYS: the list. ARGV from 2: limit, '1' for highest first, name and place of the last one seen, or ''. Returns `{ name, place, fields }` of each. */
const list = `${dossiers}
local limit, highest, last, place = tonumber(ARGV[2]), ARGV[3] == '1', ARGV[4], ARGV[5]
local from = 0
if last ~= '' then
  local rank = redis.call(highest and 'ZREVRANK' or 'ZRANK', KEYS[1], last)
  if rank then
    from = rank + 1
  elseif highest then
    from = redis.call('ZCOUNT', KEYS[1], '(' .. place, '+inf')
  else
    from = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. place)
  end
end
local found = {}
while #found < limit do
  local page = redis.call(highest and 'ZREVRANGE' or 'ZRANGE', KEYS[1], from, from + limit - #found - 1, 'WITHSCORES')
  if #page == 0 then break end
  for at = 1, #page, 2 do
    local fields = redis.call('HMGET', hashOf(page[at]), 'v', 'open', 'req', 'step', 'data', 'wake')
    if fields[1] then
      found[#found + 1] = { page[at], page[at + 1], fields }
      from = from + 1
    else
      redis.call('ZREM', KEYS[1], page[at])
    end
  end
end
return found
`;

/** KEYS: the list. ARGV: highest place or '+inf'. */
const count = `${gate}
return redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[1])
`;

export const dossierScripts = { keep, calling, called, told, dossiersBefore, list, count } as const;
