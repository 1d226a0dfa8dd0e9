"""A database of its own for each system: a NOTIFY wakes every session that listens in the same database."""

import contextlib
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
from psycopg.sql import SQL, Identifier

from benchmarks.lib.bridge import Servers


@contextlib.contextmanager
def fresh_database(servers: Servers, name: str) -> Iterator[Servers]:
    """The same servers, but with an empty database that is dropped at the end of the block."""
    database = Identifier(f"benchmark_{os.getpid()}_{name}")
    with psycopg.connect(servers.database_url, autocommit=True, connect_timeout=10) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(database))
    try:
        url = urlsplit(servers.database_url)
        yield servers._replace(database_url=url._replace(path=f"/benchmark_{os.getpid()}_{name}").geturl())
    finally:
        with psycopg.connect(servers.database_url, autocommit=True, connect_timeout=10) as connection:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(database))
