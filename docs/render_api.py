"""The reference part of `docs/api.md`, from signatures and docstrings:  python -m docs.render_api

The page's guide is written by hand; what follows `MARK` is replaced. The sources are read and never imported, so no
optional dependency is needed, and the same sources give the same page.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import griffe

from docs.docstrings import Names, first_sentence, prose
from docs.signatures import alias, annotations, call, constants, find, kind, made, meanings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
COMMAND = "python -m docs.render_api"
MARK = f"<!-- What follows is made from the sources by: {COMMAND} -->\n"


@dataclass(frozen=True)
class Section:
    """Some of a module's public names, in the order of the page."""

    title: str
    module: str
    names: tuple[str, ...]
    intro: str = ""


SECTIONS = (
    Section("A feed in your own process", "bridge", ("open_feed", "EventFeed", "Subscription")),
    Section(
        "What a stream brings",
        "bridge",
        ("Event", "Subscribed", "Notification", "Gap", "Filled", "ModeChange", "GapReason", "Mode"),
        "Feed and client give the same events. They are immutable, compare by value, and can be pickled.",
    ),
    Section("A client of a bridge elsewhere", "bridge.client", ("connect", "Client", "LinkState", "OnState", "Token")),
    Section(
        "Endpoints for Starlette and FastAPI",
        "bridge.asgi",
        (
            "lifespan",
            "routes",
            "websocket_endpoint",
            "sse_endpoint",
            "serve_websocket",
            "event_stream",
            "allow",
            "Authorize",
            "Grant",
            "BadToken",
            "Forbidden",
            "FeedSource",
            "feed_of",
            "draining",
            "MatchDataWebSocketManager",
        ),
        "Needs Starlette, which comes with FastAPI, or with the extra `asgi`. "
        "`MatchDataWebSocketManager` is in `bridge` too.",
    ),
    Section("Publish, and callbacks", "bridge", ("init_redis_notifier", "RedisNotifierService")),
    Section(
        "Errors",
        "bridge",
        ("BridgeError", "SettingsError", "LinkLost", "RedisLost"),
        "Their text is one line for a person: what happened, while doing what, what to do. It never holds a password.",
    ),
)

INTERNAL = frozenset(
    {
        "EventFeed.hub",
        "EventFeed.inbox",
        "EventFeed.start",
        "EventFeed.stop",
        "Grant.subscription",
        "Subscription.publish",
        "Subscription.tell",
    }
)
"""Public by name, because other packages of the bridge use them; nothing is promised about them."""

ITERATION = ("__aiter__", "__anext__")
"""The special methods that are on the page where they have a docstring."""


def load() -> griffe.Module:
    """The package's sources."""
    found = griffe.load("bridge", search_paths=[ROOT], resolve_aliases=False)
    assert isinstance(found, griffe.Module)  # noqa: S101 - a package is one
    return found


def public(package: griffe.Module, module: str, name: str) -> griffe.Object:
    """The definition behind a public name. Raises LookupError."""
    found = find(package, f"{module}.{name}")
    if found is None:
        raise LookupError(f"{module} has no {name}")
    return found


def methods(one: griffe.Object) -> list[griffe.Function]:
    """What can be called on instances, in the order of the source; none where it is no class."""
    found = [member for member in one.members.values() if isinstance(member, griffe.Function)]
    return [member for member in found if member.docstring is not None and _is_shown(member)]


def attributes(one: griffe.Object) -> list[griffe.Attribute]:
    """What can be read from instances, fields and properties alike; none where it is no class."""
    found = [member for member in one.members.values() if isinstance(member, griffe.Attribute)]
    return [member for member in found if _is_shown(member)]


def reference() -> str:
    """The whole generated part."""
    package = load()
    found = [(section, [public(package, section.module, name) for name in section.names]) for section in SECTIONS]
    names = Names()
    for section, objects in found:
        names.add(f"[{section.title}]", section.title)
        for one in objects:
            names.add(one.name, one.name)
            for method in methods(one):
                names.add(f"{one.name}.{method.name}", _title(method))
    writer = _Writer(package, names)
    parts = ["## Reference\n", _contents(found, names)]
    for section, objects in found:
        parts.append(f"## {section.title}\n\nIn `{section.module}`. {section.intro}".rstrip() + "\n")
        parts += [writer.entry(one) for one in objects]
    return "\n".join(parts)


def _contents(found: list[tuple[Section, list[griffe.Object]]], names: Names) -> str:
    lines = ["| name | what it is |", "|---|---|"]
    for section, objects in found:
        lines.append(f"| {names.link(f'[{section.title}]', f'**{section.title}**')} | `{section.module}` |")
        for one in objects:
            text = first_sentence(_docstring(one)).replace("|", r"\|")
            lines.append(f"| {names.link(one.name)} | {text} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Writer:
    """Writes what the page has about each thing."""

    package: griffe.Module
    names: Names

    def entry(self, one: griffe.Object) -> str:
        """A public name, and all that it has."""
        match one:
            case griffe.Function():
                return f"### `{one.name}`\n{self._function(one)}"
            case griffe.Attribute():
                text = prose(_docstring(one), self.names)
                return f"### `{one.name}`\n{_code(alias(one))}{text}{self._notes(one)}"
        assert isinstance(one, griffe.Class)  # noqa: S101 - there are no modules among public names
        members = attributes(one)
        parts = [
            f"### `{one.name}`\n{_code(made(one, members, self.package))}",
            prose(_docstring(one), self.names, scope=one.name),
        ]
        told = [self._attribute(member) for member in members if _docstring(member) or _is_set_later(member)]
        if told:
            parts.append("\n" + "".join(told))
        parts.append(self._notes(one, members))
        parts += [f"\n#### `{_title(method)}`\n{self._function(method)}" for method in methods(one)]
        return "".join(parts)

    def _function(self, function: griffe.Function) -> str:
        scope = function.parent.name if isinstance(function.parent, griffe.Class) else ""
        own = frozenset(parameter.name for parameter in function.parameters)
        text = prose(_docstring(function), self.names, scope=scope, own=own)
        return f"{_code(call(function, self.package))}{text}{self._notes(function)}"

    def _attribute(self, attribute: griffe.Attribute) -> str:
        """One item of the list of attributes."""
        scope = attribute.parent.name if attribute.parent is not None else ""
        text = prose(_docstring(attribute), self.names, scope=scope)
        told = f"- **`{attribute.name}`**: `{kind(attribute)}`. {text}".rstrip(". \n") + "."
        return re.sub(r"\n(?=.)", "\n  ", told) + "\n"

    def _notes(self, one: griffe.Object, members: list[griffe.Attribute] | None = None) -> str:
        """What names stand for that the signature or the docstring has, and the page does not explain elsewhere."""
        found = meanings(annotations(one, members or ()), self.package, self.names)
        found |= constants(_docstring(one), one)
        return "\n" + "; ".join(f"`{name}` is `{value}`" for name, value in found.items()) + ".\n" if found else ""


def _title(method: griffe.Function) -> str:
    """The name of a method as its heading has it."""
    owner = "" if method.parent is None else method.parent.name
    return f"async for … in {owner}" if method.name in ITERATION else f"{owner}.{method.name}"


def _is_shown(member: griffe.Function | griffe.Attribute) -> bool:
    owner = "" if member.parent is None else member.parent.name
    return f"{owner}.{member.name}" not in INTERNAL and (not member.name.startswith("_") or member.name in ITERATION)


def _is_set_later(member: griffe.Attribute) -> bool:
    """Whether no argument of the same name says that there is such an attribute."""
    return "class-attribute" not in member.labels and member.annotation is None


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _docstring(one: griffe.Object) -> str:
    return one.docstring.value if one.docstring is not None else ""


def rendered(page: str) -> str:
    """The page with its generated part made anew."""
    written, mark, _ = page.partition(MARK)
    if not mark:
        raise SystemExit(f"{PAGE.name} has no line {MARK.strip()!r}, after which the reference is to stand")
    return written + MARK + reference()


def main() -> None:
    """Write the page; with ``--check`` only say whether it is up to date."""
    before = PAGE.read_text()
    after = rendered(before)
    if sys.argv[1:] == ["--check"]:
        if after != before:
            raise SystemExit(f"docs/api.md is not what the sources say: {COMMAND}")
        return
    PAGE.write_text(after)


if __name__ == "__main__":
    main()
