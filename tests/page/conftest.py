"""Fixtures of the tests of the page."""

from collections.abc import Iterator

import pytest

from tests.support.browser import browser as browser
from tests.support.process import BridgeProcess
from tests.support.process import bridge as running_bridge


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeProcess]:
    """A bridge on servers of its own, as the first command of the README starts it."""
    home = str(tmp_path_factory.mktemp("home"))
    with running_bridge({"XDG_RUNTIME_DIR": home}, "serve", "--port", "0") as bridge:
        yield bridge.wait_until_ready()
