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
    asked = frozenset(map(_name, channels))
    _check_fields(where)
    try:
        check_channels(asked, known)
    except BadTarget as error:
        raise SettingsError(str(error)) from None
    compared: Where = tuple(sorted((field, _values(field, value)) for field, value in (where or {}).items()))
    if len(compared) > MAX_FIELDS or alternatives(compared) > MAX_ALTERNATIVES:
        raise SettingsError(
            f"where compares too much: at most {MAX_FIELDS} fields, and {MAX_ALTERNATIVES} combinations of their values"
        )
    return Subscription(asked or known, compared)


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


def _check_fields(where: object) -> None:
    if where is not None and not isinstance(where, Mapping):
        raise SettingsError(f"where: give fields and their values, as {{'match_id': 7}}, and not {where!r}")


def _values(field: str, value: Scalar | Iterable[Scalar]) -> tuple[str, ...]:
    """The values that a field may have, each as the text that payloads are compared by."""
    given: Iterable[Scalar] = [value] if value is None or isinstance(value, str | int | float) else value
    found = [] if isinstance(value, Mapping) else sorted({_scalar(field, one) for one in given})
    if not found:
        raise SettingsError(f"where: {field!r} has no value to be compared with")
    return tuple(found)


def _scalar(field: str, value: Scalar) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    raise SettingsError(f"where: {field!r} is compared with text, a number, True, False or None")
