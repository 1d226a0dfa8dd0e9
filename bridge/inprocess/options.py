"""The arguments of the library, read as strictly as the settings of the command line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from bridge.core.target import BadTarget, check_channels
from bridge.core.topics import MAX_ALTERNATIVES, MAX_FIELDS, Subscription, Where, alternatives
from bridge.errors import SettingsError
from bridge.settings import Settings, load

Scalar = str | int | float | bool | None


def read_settings(
    db_url: str | None,
    use_redis: bool | None,
    redis_url: str | None,
    channels: Iterable[str] | None,
    more: Mapping[str, object],
) -> Settings:
    """Arguments over the environment over `.env`. Raises SettingsError, one line that names the setting."""
    given = dict(more, database_url=db_url, use_redis_notifier=use_redis, redis_url=redis_url, channels=channels)
    unknown = sorted(set(more) - set(Settings.model_fields))
    if unknown:
        raise SettingsError(f"unknown setting {unknown[0]!r}; there are {', '.join(sorted(Settings.model_fields))}")
    settings = load({name: _text(name, value) for name, value in given.items() if value is not None}, name=_argument)
    if settings.embedded and not settings.use_redis_notifier:
        raise SettingsError("there is nothing to listen to: give db_url (or DATABASE_URL), or use_redis and redis_url")
    return settings


def checked_cursor(after: object) -> str | None:
    """The cursor that was given, if it is one at all. Raises SettingsError."""
    if after is None or isinstance(after, str):
        return after
    raise SettingsError(f"after: a cursor is text, not {type(after).__name__}")


def read_subscription(
    channels: Iterable[str], where: Mapping[str, Scalar | Iterable[Scalar]] | None, known: frozenset[str]
) -> Subscription:
    """What these arguments of `subscribe` ask for. Raises SettingsError."""
    asked = frozenset(read_names(channels))
    try:
        check_channels(asked, known)
    except BadTarget as error:
        raise SettingsError(str(error)) from None
    compared = read_where(where)
    for field, values in compared:
        if not values:
            raise SettingsError(f"where: {field!r} has no value to be compared with")
    return Subscription(asked or known, compared)


def read_names(channels: object) -> tuple[str, ...]:
    """Names, each a text. Raises SettingsError."""
    if isinstance(channels, str | bytes) or not isinstance(channels, Iterable):
        raise SettingsError(f"channels: give a list of names, not {type(channels).__name__}")
    return tuple(map(_name, channels))


def read_where(where: object) -> Where:
    """Fields with the values, none or several, that each may have. Raises SettingsError."""
    if where is None:
        return ()
    if not isinstance(where, Mapping):
        raise SettingsError(f"where: give fields and their values, as {{'match_id': 7}}, not {type(where).__name__}")
    for field in where:
        if not isinstance(field, str):
            raise SettingsError(f"where: a field is text, not {type(field).__name__}")
    compared: Where = tuple(sorted((field, _values(field, value)) for field, value in where.items()))
    if len(compared) > MAX_FIELDS or alternatives(compared) > MAX_ALTERNATIVES:
        raise SettingsError(
            f"where compares too much: at most {MAX_FIELDS} fields, and {MAX_ALTERNATIVES} combinations of their values"
        )
    return compared


def _argument(field: str) -> str:
    """What a setting is called as an argument of the library."""
    return {"database_url": "db_url", "use_redis_notifier": "use_redis"}.get(field, field)


def _text(name: str, value: object) -> str:
    """A setting as it is written in the environment."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float | PurePath):
        return str(value)
    if isinstance(value, Iterable):
        names = [str(one) for one in value]
        if any("," in one for one in names):
            raise SettingsError(f"{name}: a name with a comma cannot be given")
        return ",".join(names)
    raise SettingsError(f"{name}: {value!r} is not allowed; give text, a number, True or False")


def _name(channel: object) -> str:
    if isinstance(channel, str):
        return channel
    raise SettingsError(f"channels: a name is text, not {type(channel).__name__}; give one argument for each")


def _values(field: str, value: object) -> tuple[str, ...]:
    """The values that a field may have, each as the text that payloads are compared by."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | memoryview | Mapping):
        return tuple(sorted({_scalar(field, one) for one in value}))
    return (_scalar(field, value),)


def _scalar(field: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    raise SettingsError(
        f"where: {field!r} is compared with text, a number, True, False or None, not {type(value).__name__}"
    )
