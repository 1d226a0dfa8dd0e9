"""The page of the API says what the sources say, has every public name, and every name says what it raises."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module

import griffe
import pytest

import bridge
from bridge.client.client import BUFFER_BYTES
from bridge.hub.fanout import JOINED_BYTES
from bridge.settings import Settings
from docs import render_api
from docs.docstrings import Names, first_sentence, prose, slug

MODULES = ("bridge", "bridge.asgi", "bridge.client")
PAGE = render_api.PAGE.read_text()
ALSO_PUBLIC = ("MatchDataWebSocketManager",)
"""Of `bridge`, where its extra is installed."""


def public_names(module: str) -> list[str]:
    return [name for name in import_module(module).__all__ if name != "__version__"]


def on_the_page() -> list[griffe.Object]:
    package = render_api.load()
    found = [
        render_api.public(package, section.module, name) for section in render_api.SECTIONS for name in section.names
    ]
    return found + [member for one in found for member in [*render_api.methods(one), *render_api.attributes(one)]]


def test_the_page_is_up_to_date() -> None:
    assert render_api.rendered(PAGE) == PAGE, f"run: {render_api.COMMAND}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_the_page(module: str) -> None:
    shown = {name for section in render_api.SECTIONS if section.module == module for name in section.names}
    assert shown == set(public_names(module)), f"docs/render_api.py: the sections of {module} are not its __all__"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_can_be_imported_and_is_what_the_page_shows(module: str) -> None:
    package = render_api.load()
    for name in public_names(module):
        value = getattr(import_module(module), name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert f"{value.__module__}.{value.__qualname__}" == render_api.public(package, module, name).path


@pytest.mark.parametrize("one", on_the_page(), ids=lambda one: one.path)
def test_says_what_it_is_and_what_it_raises(one: griffe.Object) -> None:
    told = one.docstring.value if one.docstring is not None else ""
    needs_words = (
        not isinstance(one, griffe.Attribute) or "property" in one.labels or isinstance(one.parent, griffe.Module)
    )
    assert told or not needs_words, f"{one.path} has no docstring"
    if isinstance(one, griffe.Function):
        unsaid = [error for error in raised(one) if error not in told]
        assert not unsaid, f"{one.path} raises {unsaid[0]}, and its docstring does not say so"


def raised(function: griffe.Function) -> Iterator[str]:
    """The classes of errors that the body of a function raises itself."""
    tree = ast.parse(inspect.cleandoc("\n" + function.source))
    assert isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef)
    waiting: list[ast.AST] = list(tree.body[0].body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Raise):
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = ast.unparse(error) if error is not None else ""
            if name[:1].isupper() or "." in name:
                yield name
        waiting += ast.iter_child_nodes(node)


def test_what_raises_is_found() -> None:
    source = '''
async def f(x):
    """Nothing."""
    def inner():
        raise KeyError
    try:
        await x()
    except OSError as error:
        raise anyio.BusyResourceError("x") from error
    if x:
        raise error
    raise ValueError(1)
'''
    with griffe.temporary_visited_module(source) as module:
        assert sorted(raised(module["f"])) == ["ValueError", "anyio.BusyResourceError"]


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)


def test_every_link_leads_somewhere_and_nowhere_else() -> None:
    anchors = [slug(heading.replace("`", "")) for heading in headings(PAGE)]
    assert len(anchors) == len(set(anchors)), "two headings have the same anchor"
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= set(anchors)
    assert len(anchors) > 40


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^#)]+)\)", PAGE):
        assert (render_api.PAGE.parent / target).exists(), target


def test_the_guide_has_the_numbers_of_the_code() -> None:
    guide = PAGE.partition(render_api.MARK)[0]
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    for said in (
        f"`BRIDGE_CLIENT_BUFFER_BYTES` ({defaults['client_buffer_bytes'] >> 20} MiB)",
        f"and one batch of at most {JOINED_BYTES >> 10} KiB",
        f"`BRIDGE_HISTORY_ENTRIES` ({defaults['history_entries']:,})",
        f"`BRIDGE_BUFFERS_TOTAL_BYTES` ({defaults['buffers_total_bytes'] >> 20} MiB)",
        f"`buffer_bytes` ({BUFFER_BYTES >> 20} MiB)",
    ):
        assert said in guide


def test_the_sources_are_read_and_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "__all__", [])
    assert "### `open_feed`" in render_api.reference()


def test_a_page_without_a_place_for_the_reference_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"^api\.md has no line '<!-- What follows is made"):
        render_api.rendered("# API\n")


def names(*headings: str) -> Names:
    found = Names()
    for heading in headings:
        found.add(heading, heading)
    return found


def test_a_heading_comes_once() -> None:
    with pytest.raises(ValueError, match="two things are called Feed"):
        names("Feed", "Feed")


def test_prose() -> None:
    text = """Gives a `Thing`, or raises BigError; `take` takes, and ``Thing`` is no link.

    async with x as y:

        pass

    a ─▶ b

:param take: how much `Thing`
    there is.
:raises BigError: always."""
    assert prose(text, names("Thing", "BigError", "Thing.take"), scope="Thing", own=frozenset({"x"})) == (
        "Gives a `Thing`, or raises [`BigError`](#bigerror); [`take`](#thingtake) takes, and ``Thing`` is no link.\n"
        "\n"
        "```text\nasync with x as y:\n\n    pass\n\na ─▶ b\n```\n"
        "\n"
        "- [`take`](#thingtake): how much `Thing` there is.\n- Raises [`BigError`](#bigerror) always.\n"
    )
    assert (
        prose("`Thing` and `take`", names("Thing", "take"), own=frozenset({"take"})) == "[`Thing`](#thing) and `take`\n"
    )
    assert prose("", names()) == ""


def test_first_sentences() -> None:
    assert first_sentence("What it is:\nthis. And\nthat.") == "What it is: this."
    assert first_sentence("`bridge.x` is") == "`bridge.x` is"
