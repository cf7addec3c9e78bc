"""What Redis does in one step, as Lua: the scripts of `RedisLog`.

The keys of one answer, all in one hash slot:

- log: a stream. Its first entry, `<generation>-0`, is about the answer; each other one is a frame;
  the last one is the end, and says who wrote it.
- lease: exists while the producer lives.
- read: exists while somebody follows the answer, or did a short while ago.
- stop: the reason for which the answer is to be stopped, for a producer that missed the word.

An entry's id is chosen by the writer: the number after the last one. So a script that is sent
twice, because the reply to the first was lost, stores once; of two writers, one is refused; and no
clock but that of Redis counts, and that only once.
"""

from __future__ import annotations

__all__ = ["APPEND", "CLAIM", "COMMAND", "LOOK", "NO_LEASE", "OPEN", "RENEW", "STOP", "WITHDRAW"]

NO_LEASE = -3  # of LOOK

_LAST = """
local function last_of(key)
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if not last then return nil end
  local generation, number = string.match(last[1], '(%d+)-(%d+)')
  local by = nil
  if last[2][1] == 'end' then by = last[2][4] end
  return generation, tonumber(number), by
end
"""

# log, lease, read, stop; about, token, worker, log's ms, lease's ms, read's ms (0: for ever)
# -> {1 or 0, generation}: whether the answer is this token's
CLAIM = """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first then
  return {first[2][4] == ARGV[2] and 1 or 0, string.match(first[1], '%d+')}
end
local now = redis.call('TIME')
local generation = now[1] .. string.format('%03d', math.floor(tonumber(now[2]) / 1000))
redis.call('XADD', KEYS[1], generation .. '-0',
  'about', ARGV[1], 'token', ARGV[2], 'worker', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[5])
if ARGV[6] ~= '0' then redis.call('SET', KEYS[3], '1', 'PX', ARGV[6]) end
redis.call('DEL', KEYS[4])
return {1, generation}
"""

# log, lease, read, stop; token
WITHDRAW = """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first and first[2][4] == ARGV[1] then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
end
return 1
"""

# log, lease, read, stop; generation, token, the number of the first frame, log's ms, lease's ms,
# "" or the end, frames... -> 1: stored; 0: there is no such log; -1: frames before these are
# missing; -2: somebody else has ended the answer
APPEND = (
    _LAST
    + """
local generation, number, by = last_of(KEYS[1])
if generation ~= ARGV[1] then return 0 end
local first, ending = tonumber(ARGV[3]), ARGV[6]
local after = first + #ARGV - 7
if ending ~= '' then after = after + 1 end
if number >= first then
  local mine = by == nil
  if ending ~= '' then mine = by == ARGV[2] end
  return (number == after and mine) and 1 or -2
end
if by then return -2 end
if number ~= first - 1 then return -1 end
for i = 7, #ARGV do
  redis.call('XADD', KEYS[1], generation .. '-' .. (first + i - 7), 'frame', ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if ending == '' then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[5])
else
  redis.call('XADD', KEYS[1], generation .. '-' .. after, 'end', ending, 'by', ARGV[2])
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
end
return 1
"""
)

# log -> false: there is none; {}: its start is missing; else {about, generation, the number of the
# last entry}
OPEN = (
    _LAST
    + """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not first then return false end
if first[2][1] ~= 'about' then return {} end
local generation, number = last_of(KEYS[1])
return {first[2][2], generation, number}
"""
)

# log, lease, read; generation, log's ms, read's ms (0: for ever), the end and the frames that are
# stored if there is no lease, or "" -> the ms that the lease has left; 0: the answer has ended;
# -1: there is no such log; -3: there is no lease, and nothing was stored
LOOK = (
    _LAST
    + """
local generation, number, by = last_of(KEYS[1])
if generation ~= ARGV[1] then return -1 end
if by then return 0 end
local left = redis.call('PTTL', KEYS[2])
if left >= 0 then
  if ARGV[3] ~= '0' then redis.call('SET', KEYS[3], '1', 'PX', ARGV[3]) end
  return math.max(left, 1)
end
if ARGV[4] == '' then return -3 end
for i = 5, #ARGV do
  number = number + 1
  redis.call('XADD', KEYS[1], generation .. '-' .. number, 'frame', ARGV[i])
end
redis.call('XADD', KEYS[1], generation .. '-' .. (number + 1), 'end', ARGV[4], 'by', 'a reader')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 0
"""
)

# log, lease, read, stop; generation, token, log's ms, lease's ms -> {1: renewed, or as of APPEND;
# the reason to stop, or ""; whether somebody reads}
RENEW = (
    _LAST
    + """
local generation, number, by = last_of(KEYS[1])
if generation ~= ARGV[1] then return {0, '', 1} end
if by then return {-2, '', 1} end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
return {1, redis.call('GET', KEYS[4]) or '', redis.call('EXISTS', KEYS[3])}
"""
)

# log, lease, stop; reason, ms -> the worker that makes the answer, or "": nobody does
STOP = (
    _LAST
    + """
local generation, number, by = last_of(KEYS[1])
if not generation or by then return '' end
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 0 then return '' end
return redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][2][6]
"""
)

# a worker's stream of commands; id of the answer, reason, ms
COMMAND = """
redis.call('XADD', KEYS[1], 'MAXLEN', '~', '1000', '*', 'id', ARGV[1], 'reason', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
