"""Notifications as an application sends them: all of one transaction, or one by one."""

import time
from typing import Self

import psycopg

CHANNEL = "match_change"
PAYLOAD_BYTES = 64
_FIRST = 1_000_000
_REST = ',"home":24,"away":17,"clock":"11:42","qtr":3}'
_SQL = f"""'{{"match_id":' || ({_FIRST} + n) || '{_REST}'"""


def payload(number: int) -> str:
    """The payload of that number (below 9 million): always PAYLOAD_BYTES long, and no two are equal."""
    return f'{{"match_id":{_FIRST + number}{_REST}'


class Publisher:
    """A connection of its own, autocommit. Use as a context manager."""

    def __init__(self, database_url: str, channel: str = CHANNEL) -> None:
        self._connection = psycopg.connect(database_url, autocommit=True, connect_timeout=10)
        self._channel = channel

    def burst(self, count: int) -> None:
        """So many notifications of one transaction; returns when it is committed."""
        query = f"SELECT count(pg_notify(%s, {_SQL})) FROM generate_series(1, %s) AS n".encode()
        self._connection.execute(query, (self._channel, count))

    def send(self, text: str) -> None:
        """One notification, a transaction of its own."""
        self._connection.execute("SELECT pg_notify(%s, %s)", (self._channel, text))

    def send_timed(self, **fields: object) -> None:
        """One that says when it was sent, for a receiver with `timing`."""
        others = "".join(f',"{key}":{value}' for key, value in fields.items())
        self.send(f'{{"sent":{time.monotonic_ns()}{others}}}')

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
