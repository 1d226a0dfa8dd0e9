"""The announcement file: who finds it, and what is not believed."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from bridge.announcement import announced, newest
from bridge.embedded import Servers
from bridge.errors import BridgeError

SERVERS = Servers("postgresql://postgres@/postgres?host=%2Ftmp%2Fx", "redis://127.0.0.1:1")
URL = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return runtime / "notify-bridge"


def other(directory: Path, name: str, **changes: object) -> Path:
    """The announcement of this very process under another name, with changes."""
    said = json.loads((directory / f"{os.getpid()}.json").read_text())
    path = directory / name
    path.write_text(json.dumps(said | changes))
    path.chmod(0o600)
    return path


def test_it_is_there_for_the_time_of_the_block_and_private(directory: Path) -> None:
    assert newest() is None
    with announced(SERVERS, URL):
        found = newest(serving=True)
        assert found is not None
        assert (found.pid, found.database_url, found.redis_url, found.url) == (
            os.getpid(),
            SERVERS.database_url,
            SERVERS.redis_url,
            URL,
        )
        (file,) = directory.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert directory.stat().st_mode & 0o777 == 0o700
    assert newest() is None
    assert list(directory.iterdir()) == []


def test_without_a_runtime_directory_it_is_in_the_temporary_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    with announced(SERVERS, URL):
        assert (tmp_path / f"notify-bridge-{os.geteuid()}").is_dir()
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert newest() is not None


def test_the_newest_one_wins(directory: Path) -> None:
    with announced(SERVERS, URL):
        other(directory, "older.json", announced=0.0, url="http://older")
        assert (found := newest()) is not None
        assert found.url == URL
        other(directory, "newer.json", announced=2.0**40, url="http://newer")
        assert (found := newest()) is not None
        assert found.url == "http://newer"


def test_a_listener_serves_no_clients() -> None:
    with announced(SERVERS, None):
        assert newest() is not None
        assert newest(serving=True) is None


@pytest.mark.parametrize(
    "changes",
    [{"pid": 2**22 + 1}, {"process_start": "1"}, {"pid": "1"}, {"unknown": 1}],
    ids=["no process", "another process", "no pid", "another version"],
)
def test_what_no_process_stands_behind_is_removed(directory: Path, changes: dict[str, object]) -> None:
    with announced(SERVERS, URL):
        stale = other(directory, "stale.json", announced=2.0**40, **changes)
        assert (found := newest()) is not None
        assert found.url == URL
        assert not stale.exists()


def test_rubbish_is_removed(directory: Path) -> None:
    with announced(SERVERS, URL):
        other(directory, "rubbish.json").write_bytes(b"\xff[")
        other(directory, "list.json").write_bytes(b"[]")
        assert newest() is not None
        assert len(list(directory.iterdir())) == 1


def test_a_file_or_directory_that_others_may_read_is_not_believed(directory: Path) -> None:
    with announced(SERVERS, URL):
        other(directory, "open.json", announced=2.0**40, url="http://trap").chmod(0o644)
        assert (found := newest()) is not None
        assert found.url == URL
        directory.chmod(0o755)
        assert newest() is None


def test_a_symlink_in_place_of_the_directory_is_refused(directory: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir(mode=0o700)
    directory.symlink_to(trap)
    (tmp_path / f"notify-bridge-{os.geteuid()}").symlink_to(trap)
    with pytest.raises(BridgeError, match="mode 0700"), announced(SERVERS, URL):
        pass
    assert list(trap.iterdir()) == []
    assert newest() is None
