"""The directory of a pod's socket, wherever temporary files are."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from bridge.errors import BridgeError
from bridge.pod.supervisor import _private_directory


def test_the_path_is_short_enough_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tmp_path / ("ü" * 50)
    parent.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    with _private_directory() as path:
        assert len(os.fsencode(path / "listener.sock")) <= 107
    assert not path.exists()


def test_one_clear_line_where_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(BridgeError, match="No usable temporary directory found; set TMPDIR"), _private_directory():
        pass
