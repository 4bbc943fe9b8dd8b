"""What processes share, in Redis or Valkey: one script of ours, in one round trip.

One hash a deployment. Its times are moments on the server's own clock; what travels is seconds from
now, so the processes' clocks need not agree.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from math import isfinite
from typing import Any, Final

from langchain_model_gateway._text import one_line
from langchain_model_gateway.sharing import CircuitNews, Known, News

_LAYOUT: Final = 1
_MOST_EVERY: Final = 2

SCRIPT: Final = """
local process = ARGV[1]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local function number(text, least, most)  -- nonsense is nothing
  local value = tonumber(text)
  if not value or value ~= value then return 0 end
  return math.max(least, math.min(most, value))
end

local function left(moment) return math.max(0, moment - now) end

local answer = {}
for i, key in ipairs(KEYS) do
  local known, changed, gone = {}, {}, {}
  local fields = redis.call('HGETALL', key)
  for j = 1, #fields, 2 do known[fields[j]] = fields[j + 1] end
  local at = 1 + (i - 1) * 9
  local function told(n, least, most) return number(ARGV[at + n], least, most) end
  local function set(field, value) changed[#changed + 1] = field; changed[#changed + 1] = value end
  local function stamp(field, moment) set(field, string.format('%.6f', moment)) end

  local function limit(field, taken, least)
    local ends = math.max(now, number(known[field], 0, now + 900))
    local new = math.max(now + least, ends + taken)
    if taken ~= 0 or least > 0 then stamp(field, new) end
    return left(new)
  end
  local requests = limit('requests', told(1, -900, 900), told(2, 0, 900))
  local tokens = limit('tokens', told(3, -900, 900), told(4, 0, 900))

  local generation = number(known.generation, 0, 2^31)
  local cooldown = number(known.cooldown, 0, 86400)
  local opens = number(known.opens, 0, now + 86400)
  local g, c = told(5, 0, 2^31), told(6, 0, 86400)
  if g > generation or (g == generation and c == 0 and cooldown > 0) then
    generation, cooldown, opens = g, c, now + told(7, 0, 86400)
    set('generation', g); set('cooldown', c); stamp('opens', opens)
    if known.prober then gone[#gone + 1] = 'prober' end
    known.prober = nil
  end

  local probe = 0
  local asked = told(8, 0, 86400)
  if known.prober and known.prober ~= process then
    probe = left(number(known.probe, 0, now + 86400))
  end
  if cooldown > 0 and g == generation and asked > 0 and probe == 0 then
    set('prober', process); stamp('probe', now + asked)
  elseif known.prober == process then
    gone[#gone + 1] = 'prober'
  end

  local elsewhere, mine = 0, 'places:' .. process
  for field, value in pairs(known) do
    if string.sub(field, 1, 7) == 'places:' and field ~= mine then
      local count, ends = string.match(value, '^(%d+) ([%d.]+)$')
      if count and number(ends, 0, now + 3) > now then
        elsewhere = elsewhere + tonumber(count)
      else
        gone[#gone + 1] = field
      end
    end
  end
  local places = told(9, 0, 2^31)
  if places > 0 then
    set(mine, string.format('%d %.6f', places, now + 3))
  elseif known[mine] then
    gone[#gone + 1] = mine
  end

  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  if #changed > 0 then redis.call('HSET', key, unpack(changed)) end
  redis.call('EXPIRE', key, 900)
  answer[i] = string.format('%.6f %.6f %d %.6f %.6f %.6f %d',
    requests, tokens, generation, cooldown, left(opens), probe, elsewhere)
end
return answer
"""


class RedisState:
    """What processes share, in Redis (6.2 or later) or Valkey: cooldowns, limits and places.

    No call waits for it: a thread of each process exchanges news with it. Where it is out of reach,
    each process decides alone.

    Args:
        url: Where it is, as `redis.Redis.from_url` takes it.
        namespace: Whose deployments they are: gateways of one namespace share those of one name.
        every: The seconds (or a `timedelta`) between two exchanges, at most 2.
        timeout: The seconds (or a `timedelta`) after which it counts as out of reach.
        **client_options: Passed on to `redis.Redis.from_url`.

    Raises:
        ImportError: If redis-py is not installed.
        ValueError: If an argument is malformed.

    Example:
        ```python
        gateway = GatewayRunnable(models=[...], state=RedisState("redis://localhost:6379"))
        ```
    """

    def __init__(
        self,
        url: str,
        namespace: str = "default",
        every: float | timedelta = 0.1,
        timeout: float | timedelta = 1.0,
        **client_options: Any,
    ) -> None:
        if not isinstance(namespace, str) or not namespace or set("{}") & set(namespace):
            raise ValueError(f"namespace is a name without braces, got {namespace!r}")
        self.namespace = namespace
        self.every = _seconds("every", every)
        if self.every > _MOST_EVERY:  # places that are not told again expire
            raise ValueError(f"every is at most {_MOST_EVERY} seconds, got {self.every:g}")
        self._arguments = (url, namespace, every, timeout), client_options
        self._connect = partial(_client, url, _seconds("timeout", timeout), client_options)
        self._connected_in, self._client = os.getpid(), self._connect()

    def exchange(self, process: str, news: Mapping[str, News]) -> Mapping[str, Known]:
        """Tell what is new, and learn what all know."""
        keys = [f"lmg:{_LAYOUT}:{{{self.namespace}}}:{name}" for name in news]
        told = [value for each in news.values() for value in _told(each)]
        if (here := os.getpid()) != self._connected_in:
            # A fork has another's sockets, and locks that nobody may ever release: closing them,
            # too, would wait.
            self._client.auto_close_connection_pool = False
            self._client, self._connected_in = self._connect(), here
        answer = self._client.register_script(SCRIPT)(keys=keys, args=[process, *told])
        return {name: _known(text) for name, text in zip(news, answer, strict=True)}

    def __repr__(self) -> str:
        return f"RedisState(namespace={self.namespace!r}, every={self.every!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        args, options = self._arguments
        return partial(RedisState, **options), args


def _seconds(name: str, value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise ValueError(f"{name} is a number of seconds, got {type(value).__name__}")
    if not (isfinite(seconds) and seconds > 0):
        raise ValueError(f"{name} is more than 0 seconds, got {seconds}")
    return float(seconds)


def _client(url: str, patience: float, options: Mapping[str, Any]) -> Any:
    try:
        from redis import Redis  # noqa: PLC0415 - an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "RedisState needs redis-py: pip install 'langchain-model-gateway[redis]'"
        ) from error
    ours = {
        "socket_timeout": patience,
        "socket_connect_timeout": patience,
        # Its own ten retries would hold up the news; the next exchange is the retry.
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
    }
    try:
        client = Redis.from_url(url, **{**ours, **options})
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects only when it is used
    except TypeError as error:
        unknown = str(error).rpartition(" argument ")[2]  # and what is meant, from Python 3.13 on
        raise ValueError(f"redis-py has no option {one_line(unknown, 120)}") from None
    except (AttributeError, ValueError):
        # Without its cause: that may quote a password.
        raise ValueError("url is no Redis URL, such as 'redis://localhost:6379/0'") from None
    return client


def _told(news: News) -> list[float]:
    return [*news.requests, *news.tokens, *news.circuit, news.places]


def _known(text: str) -> Known:
    requests, tokens, generation, cooldown, left, probe, places = text.split()
    circuit = CircuitNews(int(generation), float(cooldown), float(left), float(probe))
    return Known(float(requests), float(tokens), circuit, int(places))
