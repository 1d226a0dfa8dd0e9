"""What a server may say to its log because of what its peers do."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No client may leave more than an INFO line, and never a stack trace."""
    yield
    assert [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info] == []
