"""What a server may say to its log because of what its peers do."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No client may leave more than an INFO line, and never a stack trace."""
    yield
    assert [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info] == []


class Collector(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def only_debug_lines() -> Iterator[None]:
    """Whatever is logged within is no more than one line each, at debug level."""
    handler = Collector()
    root, bridge = logging.getLogger(), logging.getLogger("bridge")
    level = bridge.level
    root.addHandler(handler)
    bridge.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        bridge.setLevel(level)
        root.removeHandler(handler)
    loud = [
        r for r in handler.records if r.levelno > logging.DEBUG or r.exc_info or len(r.getMessage().splitlines()) > 1
    ]
    assert [record.getMessage() for record in loud] == []
