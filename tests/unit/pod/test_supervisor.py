"""The directory of a pod's socket, wherever temporary files are."""

import errno
import os
import socket
import tempfile
from pathlib import Path

import pytest

from bridge.errors import BridgeError
from bridge.pod.supervisor import _private_directory


def test_the_path_is_short_enough_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    least_bytes = len(os.fsencode(tmp_path))
    for name in ["ü" * 50, *("x" * count for count in range(1, 120 - least_bytes))]:
        parent = tmp_path / name
        parent.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(parent))
        with _private_directory() as path, socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path / "listener.sock"))
        assert not path.exists()


def test_one_clear_line_where_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(BridgeError, match="No usable temporary directory found; set TMPDIR"), _private_directory():
        pass
