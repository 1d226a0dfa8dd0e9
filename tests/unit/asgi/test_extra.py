"""Without Starlette: the rest of the library works, and what needs it says how to get it."""

import subprocess
import sys

import pytest

HIDE = "import sys; sys.modules['starlette'] = None; "


@pytest.mark.parametrize("statement", ["import bridge.asgi", "from bridge import MatchDataWebSocketManager"])
def test_what_needs_the_extra_names_it(statement: str) -> None:
    done = subprocess.run([sys.executable, "-c", HIDE + statement], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ModuleNotFoundError: bridge.asgi needs Starlette" in done.stderr
    assert "pip install starlette" in done.stderr


def test_all_else_does_without() -> None:
    statement = "from bridge import *; import bridge.cli.app; open_feed"
    subprocess.run([sys.executable, "-c", HIDE + statement], check=True, timeout=120)
