"""A flag for every setting, on every command."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from bridge.settings import Settings, flag, variable

Flags = dict[str, str]
"""What was given on the command line, by field of `Settings`."""

_SWITCH = "use_redis_notifier"
_WORDS = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n"})


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every setting; it gets those that were given as its argument `flags`."""

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        given = {field: arguments.pop(field) for field in Settings.model_fields}
        command(**arguments, flags={field: value for field, value in given.items() if value is not None})

    own = [each for each in inspect.signature(command).parameters.values() if each.name != "flags"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(field, keyword, default=None, annotation=_option(field)) for field in Settings.model_fields
    ]
    signature = inspect.Signature([*(each.replace(kind=keyword) for each in own), *added])
    # what `inspect.signature` looks for, and types do not know of
    wrapped.__signature__ = signature  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    wrapped.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
    del wrapped.__wrapped__
    return wrapped


def spell_out_switch(arguments: Sequence[str]) -> list[str]:
    """`--use-redis-notifier` and `--no-use-redis-notifier` with the value that they stand for."""
    switch = flag(_SWITCH)
    spelled: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return spelled + list(arguments[index:])
        following = arguments[index + 1].lower() if index + 1 < len(arguments) else ""
        if argument == switch and following not in _WORDS:
            spelled.append(f"{switch}=true")
        elif argument == switch.replace("--", "--no-"):
            spelled.append(f"{switch}=false")
        else:
            spelled.append(argument)
    return spelled


def _option(field: str) -> Any:
    about = Settings.model_fields[field]
    default = "" if about.default in (None, ()) else f"; {_text(about.default)} by default"
    if field == "port":
        default += ", for listen 8001"
    help_text = f"{variable(field)}: {about.description}{default}"
    return Annotated[str | None, typer.Option(flag(field), help=help_text, show_default=False, metavar="VALUE")]


def _text(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)
