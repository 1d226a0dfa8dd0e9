"""What a Redis in memory keeps, and its commands: as many as the bridge uses, with the answers of the real one.

`append.lua` runs here as Python, step by step the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

Id = tuple[int, int]
Arguments = list[bytes]


class Simple(bytes):
    """An answer such as OK."""


class Failure(Exception):
    """An error reply; its text begins with its code."""


class NoSuchCommand(Failure):
    """The bridge uses a command that is not simulated."""


@dataclass
class Stream:
    """Entries by id, and the last id that was ever given."""

    entries: dict[Id, bytes] = field(default_factory=dict)
    last: Id = (0, 0)

    def trim(self, count: int) -> None:
        for identifier in list(self.entries)[: max(0, len(self.entries) - count)]:
            del self.entries[identifier]

    def forget_newest(self, count: int) -> None:
        """As a replica that is promoted without them."""
        lost = list(self.entries)[max(0, len(self.entries) - count) :] if count else []
        for identifier in lost:
            del self.entries[identifier]
        if lost:
            term, seq = lost[0]
            self.last = max(self.entries, default=(term, seq - 1) if seq else (0, 0))


@dataclass
class Expiring:
    value: bytes
    until: float


class Data:
    """The keys. `publish` gets what goes to subscribers; `now` tells the time."""

    def __init__(self, now: Callable[[], float], publish: Callable[[bytes, bytes], int]) -> None:
        self.keys: dict[bytes, Stream | dict[bytes, bytes] | Expiring] = {}
        self.refusal = ""
        """The error that every write gets: out of memory, a replica, a full disk."""
        self.loading = False
        self._scripts: dict[bytes, bytes] = {}
        self._now = now
        self._deliver = publish

    def forget_scripts(self) -> None:
        self._scripts.clear()

    def streams(self) -> list[Stream]:
        return [value for value in self.keys.values() if isinstance(value, Stream)]

    def answer(self, command: Arguments) -> Any:
        """The reply to one command. Raises Failure for an error reply."""
        name = command[0].upper().decode()
        if self.loading and name not in ("HELLO", "SUBSCRIBE", "SELECT"):
            raise Failure("LOADING Redis is loading the dataset in memory")
        handler = getattr(self, f"_{name.lower()}", None)
        if handler is None:
            raise NoSuchCommand(f"ERR unknown command '{name}'")
        return handler(*command[1:])

    def _hello(self, *_: bytes) -> Any:
        return [b"server", b"redis", b"version", b"7.0.15", b"mode", b"standalone", b"role", b"master"]

    def _ping(self) -> Any:
        return Simple(b"PONG")

    def _exists(self, key: bytes) -> int:
        return int(self._live(key) is not None)

    def _get(self, key: bytes) -> bytes | None:
        value = self._live(key)
        return value.value if isinstance(value, Expiring) else None

    def _set(self, key: bytes, value: bytes, px: bytes, milliseconds: bytes) -> Any:
        assert px == b"PX"
        self._check_writable()
        self.keys[key] = Expiring(value, self._now() + int(milliseconds) / 1000)
        return Simple(b"OK")

    def _hmget(self, key: bytes, *names: bytes) -> Any:
        found = self._hash(key)
        return [found.get(name) for name in names]

    def _hgetall(self, key: bytes) -> Any:
        return [part for pair in self._hash(key).items() for part in pair]

    def _hlen(self, key: bytes) -> int:
        return len(self._hash(key))

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        self._check_writable()
        found = self.keys.setdefault(key, {})
        assert isinstance(found, dict)
        before = len(found)
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(found) - before

    def _publish(self, channel: bytes, message: bytes) -> int:
        return self._deliver(channel, message)

    def _xinfo(self, _stream: bytes, key: bytes) -> Any:
        stream = self._live(key)
        if not isinstance(stream, Stream):
            raise Failure("ERR no such key")
        return [b"length", len(stream.entries), b"last-generated-id", b"%d-%d" % stream.last]

    def _xrange(self, key: bytes, start: bytes, end: bytes, _count: bytes, count: bytes) -> Any:
        stream = self._live(key)
        if not isinstance(stream, Stream):
            return []
        assert end == b"+"
        exclusive = start.startswith(b"(")
        first = (0, 0) if start == b"-" else _id(start.lstrip(b"("))
        rows = [i for i in stream.entries if i > first or (i == first and not exclusive)]
        return [[b"%d-%d" % i, [b"e", stream.entries[i]]] for i in rows[: int(count)]]

    def _script(self, _load: bytes, script: bytes) -> bytes:
        digest = sha1(script, usedforsecurity=False).hexdigest().encode()
        self._scripts[digest] = script
        return digest

    def _eval(self, script: bytes, _count: bytes, key: bytes, value: bytes) -> int:
        assert b"redis.call('DEL', KEYS[1])" in script
        if self._get(key) != value:
            return 0
        if not self.refusal.startswith("OOM"):
            self._check_writable()
        del self.keys[key]
        return 1

    def _evalsha(self, digest: bytes, _count: bytes, *rest: bytes) -> Any:
        if digest not in self._scripts:
            raise Failure("NOSCRIPT No matching script. Please use EVAL.")
        return self._append(rest[:3], list(rest[3:]))

    def _append(self, keys: tuple[bytes, ...], argv: Arguments) -> Any:
        """append.lua."""
        log, meta, terms = keys
        expected, known, database, fresh, history, live, events, term, first, flags = argv[:10]
        count = len(flags)
        lines, relations = argv[10 : 10 + count], argv[10 + count :]
        found = self._hash(meta)
        nonce = found.get(b"nonce", b"")
        if found.get(b"database", database) != database:
            raise Failure(f"FOREIGNLOG {found[b'database'].decode()}")
        stream = self._live(log)
        tail = b"%d-%d" % stream.last if isinstance(stream, Stream) and stream.last != (0, 0) else b""
        if tail != expected or nonce != known:
            return [0, tail, nonce]
        identifier = (0, 0)
        for index, line in enumerate(lines):
            identifier = (int(term), int(first) + index)
            self._xadd(log, identifier, line)
        written = self.keys[log]
        assert isinstance(written, Stream)
        written.trim(int(history))
        troubles: list[bytes] = []
        if not tail or not nonce:
            nonce = fresh
            self._attempt(troubles, self._hset, meta, b"nonce", fresh, b"database", database)
        if relations:
            self._attempt(troubles, self._hset, terms, *relations)
        self._publish(live, b"\n".join(lines))
        for flag, line in zip(flags, lines, strict=True):
            if flag == ord("1"):
                self._publish(events, line)
        return [1, b"%d-%d" % identifier, nonce, *troubles]

    def _xadd(self, key: bytes, identifier: Id, line: bytes) -> None:
        self._check_writable()
        stream = self.keys.setdefault(key, Stream())
        assert isinstance(stream, Stream)
        if identifier <= stream.last:
            raise Failure("REFUSED The ID specified in XADD is equal or smaller than the target stream top item")
        stream.entries[identifier] = line
        stream.last = identifier

    def _attempt(self, troubles: list[bytes], act: Callable[..., Any], *arguments: bytes) -> None:
        try:
            act(*arguments)
        except Failure as failure:
            troubles.append(str(failure).encode())

    def _check_writable(self) -> None:
        if self.refusal:
            raise Failure(self.refusal)

    def _live(self, key: bytes) -> Stream | dict[bytes, bytes] | Expiring | None:
        value = self.keys.get(key)
        if isinstance(value, Expiring) and value.until <= self._now():
            del self.keys[key]
            return None
        return value

    def _hash(self, key: bytes) -> dict[bytes, bytes]:
        value = self._live(key)
        return value if isinstance(value, dict) else {}


def _id(text: bytes) -> Id:
    term, _, seq = text.partition(b"-")
    return int(term), int(seq or 0)
