"""What an error reply of Redis means for the bridge: one table from its first word to one of our errors."""

from bridge.errors import BridgeError, LogRefused, RedisLost, RedisUnusable


class RedisReplyError(RedisUnusable):
    """A command was refused for a reason of its own: unknown, renamed, on a wrong key. `code`: first word of `text`."""

    def __init__(self, text: str) -> None:
        super().__init__(f"Redis answered: {text}")
        self.text = text
        self.code = code_of(text)


class NoPermission(RedisUnusable):
    """The ACL rules of this user forbid a command, a key or a channel."""


_MEANINGS: dict[str, tuple[type[BridgeError], str]] = {
    "NOAUTH": (RedisUnusable, "Redis wants a password; put it into REDIS_URL"),
    "WRONGPASS": (RedisUnusable, "Redis does not accept the user name or password in REDIS_URL"),
    "NOPERM": (NoPermission, "Redis forbids this to the user in REDIS_URL; its ACL rules must allow it"),
    "DENIED": (RedisUnusable, "Redis runs in protected mode and takes no connections from here"),
    "MOVED": (RedisUnusable, "this is a Redis Cluster, which is not supported"),
    "ASK": (RedisUnusable, "this is a Redis Cluster, which is not supported"),
    "CROSSSLOT": (RedisUnusable, "this is a Redis Cluster, which is not supported"),
    "CLUSTERDOWN": (RedisUnusable, "this is a Redis Cluster, which is not supported"),
    "LOADING": (RedisLost, "Redis is starting and still loads its data"),
    "BUSY": (RedisLost, "Redis is busy with somebody's script"),
    "MASTERDOWN": (RedisLost, "this Redis is a replica that has lost its primary"),
    "READONLY": (RedisLost, "this Redis is a replica and takes no writes"),
    "OOM": (LogRefused, "Redis is out of memory and takes no writes"),
    "MISCONF": (LogRefused, "Redis cannot save to its disk and takes no writes"),
    "NOREPLICAS": (LogRefused, "Redis has too few replicas and takes no writes"),
    "REFUSED": (LogRefused, "Redis did not append to the log"),  # append.lua's own word
}


def code_of(text: str) -> str:
    """The first word of an error reply, which is what it means."""
    return text.partition(" ")[0]


def error_for(text: str) -> BridgeError:
    """The error that stands for this error reply; RedisReplyError where the reply is about the command alone."""
    kind, meaning = _MEANINGS.get(code_of(text), (None, ""))
    return RedisReplyError(text) if kind is None else kind(f"{meaning} ({text})")
