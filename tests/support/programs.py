"""What tests need of this machine beside Python: programs, and packages from npm.

Where something is missing, the tests that need it are skipped and say why. In CI (`CI` is set), and with
BRIDGE_TEST_SERVERS=all, they fail: what was not checked must not look as if it were.
"""

import fcntl
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NoReturn

import pytest

CHROMIUM_ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""It does nothing of its own accord."""
ATTEMPTS = 3
ATTEMPT_SECONDS = 120.0
PAUSE_SECONDS = 2.0

_DEBIAN = {
    "chromium": "chromium",
    "node": "nodejs",
    "npm": "npm",
    "psql": "postgresql-client",
    "redis-cli": "redis-tools",
}
"""Programs and the packages that have them."""


def lacking(what: str) -> NoReturn:
    """End this test with one line, which says what is missing and what to do."""
    if os.environ.get("CI") or os.environ.get("BRIDGE_TEST_SERVERS") == "all":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def found(program: str) -> str:
    """The path of a program that this test cannot do without."""
    path = shutil.which(program)
    if path is None:
        advice = f"apt-get install {_DEBIAN[program]}" if program in _DEBIAN else "install it, or put it on the PATH"
        lacking(f"{program} is not installed: {advice}")
    return path


def npm_packages(factory: pytest.TempPathFactory, worker_id: str, *packages: str) -> Path:
    """The `node_modules` with these packages, which are installed once for all processes of this run."""
    found("node")
    npm = found("npm")
    base = factory.getbasetemp() if worker_id == "master" else factory.getbasetemp().parent
    directory = base / re.sub(r"\W+", "-", "npm " + " ".join(packages))
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = directory / "outcome"
        if not outcome.exists():
            outcome.write_text(_install(npm, directory, packages))
        if error := outcome.read_text():
            lacking(f"npm cannot install {' '.join(packages)}; see whether its registry can be reached: {error}")
    return directory / "node_modules"


def _install(npm: str, directory: Path, packages: tuple[str, ...]) -> str:
    """Try it a few times, as networks fail for a moment; the last error, or nothing where all is well."""
    flags = ["--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--fetch-retries=0", "--prefix", "."]
    error = ""
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * PAUSE_SECONDS)
        try:
            done = subprocess.run(
                [npm, "install", *flags, *packages],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=ATTEMPT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            error = f"not done after {ATTEMPT_SECONDS:g} s"
            continue
        if done.returncode == 0:
            return ""
        said = re.findall("^npm error (.*)", done.stderr, re.MULTILINE)
        error = ", ".join(said[:4]) or f"exit code {done.returncode}"
    return error
