"""The command line as a user runs it: a process of its own, no inherited settings, an empty working directory."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
_SETTINGS = ("BRIDGE_", "DB_", "PG", "DATABASE_URL", "REDIS_URL", "USE_REDIS_NOTIFIER", "XDG_RUNTIME_DIR", "PYTHON")


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment without anything that the bridge reads; what it leaves for others goes below `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return {**kept, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(home), "TMPDIR": str(home), **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "bridge", *arguments]


def run(
    home: Path, arguments: Sequence[str], given: str | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end in the directory `home`."""
    return subprocess.run(
        command(*arguments),
        cwd=home,
        env=environment(home, **settings),
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
