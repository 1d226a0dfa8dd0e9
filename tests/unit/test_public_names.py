"""What `import bridge` gives: every public name, when it is asked for, and values that behave like values."""

import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import bridge
from bridge import Event, Filled, Gap, ModeChange, Notification, Subscribed

EVENTS: list[Callable[[], Event]] = [
    lambda: Subscribed(("a", "b"), {"team": ["1", "2"]}, None, "1-1"),
    lambda: Notification("1-2", "a", b'{"n":1}', True, "1-2"),
    lambda: Gap(None, "1-3", "failover", True, "1-3"),
    lambda: Filled("1-1", "1-3"),
    lambda: ModeChange("direct", "Redis is away"),
]
OTHER: list[Event] = [
    Subscribed(("a",), {}),
    Notification("1-2", "b", b"{}"),
    Gap(None, "1-3", "slow_client"),
    Filled(None, None),
    ModeChange("none"),
]
HEAVY = {"anyio", "asyncio", "trio", "msgspec", "psycopg", "psycopg.pq", "pydantic", "redis", "starlette", "typer"}


def in_python(code: str, *, fails: bool = False) -> str:
    """What this program prints in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert bool(done.returncode) == fails, done.stderr
    return done.stderr if fails else done.stdout


def imported_by(code: str) -> set[str]:
    return set(in_python(f"{code}\nimport sys; print(*sys.modules)").split())


def test_a_star_brings_all_public_names_and_no_others() -> None:
    brought = in_python("from bridge import *; print(*[name for name in dir() if not name.startswith('_')])").split()
    assert sorted([*brought, "__version__"]) == sorted(bridge.__all__)


def test_all_names_are_listed_before_they_are_asked_for() -> None:
    listed = in_python("import bridge; print(*dir(bridge))").split()
    assert set(bridge.__all__) <= set(listed)
    assert "MatchDataWebSocketManager" not in listed, "without its extra, who goes through the list would fail"


def test_importing_it_is_cheap() -> None:
    assert not imported_by("import bridge") & HEAVY
    assert not imported_by("from bridge import SettingsError") & HEAVY
    assert imported_by("from bridge import Notification") & HEAVY == {"msgspec"}


def test_a_name_is_the_same_thing_wherever_it_comes_from() -> None:
    assert in_python("import bridge, bridge.stream; print(bridge.Gap is bridge.Gap is bridge.stream.Gap)") == "True\n"


def test_a_name_that_is_misspelt_is_answered_by_one_that_is_meant() -> None:
    said = in_python("import bridge; bridge.opne_feed", fails=True)
    assert "AttributeError: module 'bridge' has no attribute 'opne_feed'. Did you mean: 'open_feed'?" in said
    assert not hasattr(bridge, "nothing_of_the_kind")


def test_without_the_extra_everything_else_works_and_the_error_says_what_is_missing() -> None:
    without = "import sys; sys.modules['starlette'] = None\nimport bridge\n"
    assert "open_feed" in in_python(f"{without}import pydoc; print(pydoc.plain(pydoc.render_doc(bridge)))")
    in_python(f"{without}from bridge import *")
    said = in_python(f"{without}bridge.MatchDataWebSocketManager", fails=True)
    assert "bridge.asgi needs Starlette, which comes with FastAPI or with: pip install starlette" in said


def test_help_says_how_to_use_it() -> None:
    told = in_python("import pydoc, bridge; print(pydoc.plain(pydoc.render_doc(bridge.open_feed)))")
    signature = "".join(told.split())  # on one line or several
    assert "open_feed(db_url:str|None=None,*,use_redis:bool|None=None" in signature
    assert "async with bridge.open_feed(" in told
    assert inspect.signature(bridge.open_feed).parameters["after"].default is None


@pytest.mark.parametrize(("make", "other"), list(zip(EVENTS, OTHER, strict=True)))
def test_events_are_values(make: Callable[[], Event], other: Event) -> None:
    event = make()
    assert event == make()
    assert event != other
    copy = pickle.loads(pickle.dumps(event))
    assert copy == event
    assert type(copy) is type(event)
    assert eval(repr(event), vars(bridge)) == event
    with pytest.raises(AttributeError, match="immutable"):
        setattr(event, type(event).__struct_fields__[0], None)


def test_notifications_can_be_in_sets() -> None:
    one, same, another = Notification("1", "a", b"1"), Notification("1", "a", b"1"), Notification("2", "a", b"1")
    assert {one, same, another} == {one, another}


def test_errors_have_one_tree() -> None:
    assert issubclass(bridge.SettingsError, bridge.BridgeError)
    assert bridge.RedisLost.__mro__[1:3] == (bridge.LinkLost, bridge.BridgeError)
    lost = pickle.loads(pickle.dumps(bridge.RedisLost("Redis is away")))
    assert (type(lost), str(lost)) == (bridge.RedisLost, "Redis is away")


def test_types_are_marked_as_there() -> None:
    assert (Path(bridge.__file__).parent / "py.typed").exists()
