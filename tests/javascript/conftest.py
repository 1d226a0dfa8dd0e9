"""Fixtures of the tests of the JavaScript client."""

from pathlib import Path

import pytest

from tests.support.browser import browser as browser
from tests.support.programs import found, npm_packages


@pytest.fixture(scope="session")
def node() -> str:
    return found("node")


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Where the packages are."""
    return npm_packages(tmp_path_factory, worker_id, "ws@8", "@types/ws@8", "typescript@7")
