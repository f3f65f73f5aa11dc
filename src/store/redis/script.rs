//! What is changed together is changed by one script: the server runs it whole, or not at all.
//!
//! They are sent with each call. The server compiles a script once and knows it by its hash, so
//! that costs a few hundred bytes, and nothing has to be loaded again after a fail-over.

/// Keys: index, expiry, values. Arguments: how, now; then of each its key, value, expiry and how
/// many milliseconds the server may keep it (0: for ever). Answers how many were kept.
pub(super) const KEEP: &str = r"
local kept = 0
for n = 3, #KEYS do
  local at = 3 + (n - 3) * 4
  local key, keep = ARGV[at], true
  if ARGV[1] ~= 'put' then
    local there = redis.call('EXISTS', KEYS[n]) == 1
    if ARGV[1] == 'replace' then
      keep = there
    elseif there then
      local due = redis.call('ZSCORE', KEYS[2], key)
      keep = due and tonumber(due) <= tonumber(ARGV[2])
    end
  end
  if keep then
    if ARGV[at + 3] == '0' then
      redis.call('SET', KEYS[n], ARGV[at + 1])
    else
      redis.call('SET', KEYS[n], ARGV[at + 1], 'PX', ARGV[at + 3])
    end
    redis.call('ZADD', KEYS[1], 0, key)
    redis.call('ZADD', KEYS[2], ARGV[at + 2], key)
    kept = kept + 1
  end
end
return kept
";

/// Keys: index, expiry, value. Arguments: key. Answers whether there was a value.
pub(super) const REMOVE: &str = r"
local there = redis.call('DEL', KEYS[3])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return there
";

/// Keys: index, expiry, values. Arguments: now; the keys. Answers how many were due still.
pub(super) const PURGE: &str = r"
local purged = 0
for n = 3, #KEYS do
  local key = ARGV[n - 1]
  local due = redis.call('ZSCORE', KEYS[2], key)
  if due and tonumber(due) <= tonumber(ARGV[1]) then
    redis.call('DEL', KEYS[n])
    redis.call('ZREM', KEYS[1], key)
    redis.call('ZREM', KEYS[2], key)
    purged = purged + 1
  end
end
return purged
";

/// Keys: stream, what is known of it. Arguments: of each event its link and the event. Each names
/// the one before it.
pub(super) const APPEND: &str = r"
local before = redis.call('HGET', KEYS[2], 'last') or ''
for n = 1, #ARGV, 2 do
  redis.call('XADD', KEYS[1], '*', 'before', before, 'link', ARGV[n], 'event', ARGV[n + 1])
  before = ARGV[n]
end
redis.call('HSET', KEYS[2], 'last', before)
return 1
";

/// Keys: as above. Arguments: after which, how many. Writes, too: servers that take no writes, as
/// one that was the master, can't know what the others are told.
pub(super) const FOLLOW: &str = r"
redis.call('HINCRBY', KEYS[2], 'reads', 1)
local last = redis.call('HGET', KEYS[2], 'last') or ''
return {last, redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])}
";

/// Keys: as above. Arguments: a link for the beginning, where there has been no event: a server that
/// was emptied then differs from one to which nothing was told yet. Answers the link and the name of
/// the last event.
pub(super) const END: &str = r"
redis.call('HINCRBY', KEYS[2], 'reads', 1)
redis.call('HSETNX', KEYS[2], 'last', ARGV[1])
local last = redis.call('HGET', KEYS[2], 'last')
local tail = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return {last, tail[1] and tail[1][1] or '0-0'}
";

/// Keys: stream. Arguments: how many milliseconds are kept.
pub(super) const TRIM: &str = r"
local now = redis.call('TIME')
local from = now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[1] + 1
return redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f', from))
";
