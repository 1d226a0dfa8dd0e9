-- Compare-and-append: add a batch to the log, if the log still ends where the caller believes.
--
-- KEYS: the log, its :meta, its :terms.
-- ARGV: expected tail, expected nonce, database, fresh nonce, history entries, channel :live, channel :events,
--       term, first seq, flags (one character an entry: 1 = to be published on :events), the entries,
--       then pairs for :terms.
-- Returns {appended (0 or 1), tail, nonce, trouble...}: the tail and the nonce as they are now ('' for none), and
-- errors of what is not the append itself. Nothing is written where the first entry cannot be.
-- Terms are above 2^53 and stay strings; seqs are below it and may be counted.

local log, meta, terms = KEYS[1], KEYS[2], KEYS[3]
local FIRST_ENTRY = 11

local function plain(message) -- before Redis 7 an error in a script begins with where it was raised
  return (string.gsub(message, '^@user_script: ?%d+: %-?', ''))
end

local found = redis.call('HMGET', meta, 'nonce', 'database')
local nonce = found[1] or ''
if found[2] and found[2] ~= ARGV[3] then
  return {err = 'FOREIGNLOG ' .. found[2]}
end

local tail = ''
if redis.call('EXISTS', log) == 1 then
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      tail = info[i + 1]
      break
    end
  end
end
if tail == '0-0' then
  tail = ''
end
if tail ~= ARGV[1] or nonce ~= ARGV[2] then
  return {0, tail, nonce}
end

local term, first, flags = ARGV[8], tonumber(ARGV[9]), ARGV[10]
local count = #flags
local last = FIRST_ENTRY + count - 1
local id
for i = 1, count do
  id = term .. '-' .. string.format('%.0f', first + i - 1)
  local line = ARGV[FIRST_ENTRY + i - 1]
  local added
  if i < count then
    added = redis.pcall('XADD', log, id, 'e', line)
  else
    added = redis.pcall('XADD', log, 'MAXLEN', '~', ARGV[5], id, 'e', line)
  end
  if type(added) == 'table' and added.err then
    local message = plain(added.err)
    if not string.match(message, '^%u+ ') or string.match(message, '^ERR ') then
      message = 'REFUSED ' .. message -- a missing right has no code of its own in a script
    end
    return {err = message}
  end
end

local answer = {1, id, nonce}
local function attempt(...)
  local result = redis.pcall(...)
  if type(result) == 'table' and result.err then
    answer[#answer + 1] = plain(result.err)
  end
end

if tail == '' or nonce == '' then
  answer[3] = ARGV[4]
  attempt('HSET', meta, 'nonce', ARGV[4], 'database', ARGV[3])
end
if #ARGV > last then
  attempt('HSET', terms, unpack(ARGV, last + 1))
end
attempt('PUBLISH', ARGV[6], table.concat(ARGV, '\n', FIRST_ENTRY, last))
for i = 1, count do
  if string.byte(flags, i) == 49 then
    attempt('PUBLISH', ARGV[7], ARGV[FIRST_ENTRY + i - 1])
  end
end
return answer
