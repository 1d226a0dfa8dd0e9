"""Every error of the bridge, in one tree.

    BridgeError                 caught at the top: one line for a person
    ├── SettingsError           a setting or an argument cannot be used; exit code 2
    ├── LinkLost                a connection failed; a supervisor opens it again after a delay
    │   ├── PostgresLost
    │   │   └── PostgresUnusable    reached, but it cannot serve: password, pooler, standby
    │   ├── RedisLost
    │   │   └── RedisUnusable       reached, but it cannot serve: password, cluster, not a Redis
    │   └── PodLost                 the listener process of the pod does not answer
    ├── LogRefused              Redis answers but does not take writes now (memory, disk, rights)
    └── ForeignLog              the log in Redis belongs to another database

Links translate what their libraries raise into these, so that nobody outside `bridge.links` sees psycopg, hiredis or
redis-py. The text of an error says what happened, while doing what, and where there is an answer, what to do.
"""


class BridgeError(Exception):
    """Base of all errors that the bridge raises on purpose."""


class SettingsError(BridgeError):
    """A setting or an argument cannot be used; the message names it."""


class LinkLost(BridgeError):
    """A connection failed or went silent. Opening it again may help."""


class PostgresLost(LinkLost):
    """The session with PostgreSQL is gone, or could not be opened."""


class PostgresUnusable(PostgresLost):
    """PostgreSQL answers, but this connection can never hear a notification until a person changes something."""


class RedisLost(LinkLost):
    """The connection to Redis is gone, or could not be opened."""


class RedisUnusable(RedisLost):
    """Redis answers, but it cannot be used until a person changes something."""


class PodLost(LinkLost):
    """The connection to the listener process of the pod is gone, or could not be opened."""


class LogRefused(BridgeError):
    """Redis refuses to write (out of memory, disk trouble, missing rights) though the connection works."""


class ForeignLog(BridgeError):
    """The log in Redis was written from another database; appending would mix the two."""
