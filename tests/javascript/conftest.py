"""Fixtures of the tests of the JavaScript client.

Where there is no Node with npm, or no Chromium, what needs it is left out; with BRIDGE_TEST_SERVERS=all that is a
failure.
"""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.browser import browser as browser

PACKAGES = ("ws@8", "@types/ws@8", "typescript@7")
INSTALL = ("npm", "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", *PACKAGES)

collect_ignore = []
if os.environ.get("BRIDGE_TEST_SERVERS") != "all":
    if shutil.which("npm") is None:
        collect_ignore += ["test_deterministic.py", "test_node.py", "test_types.py"]
    if shutil.which("chromium") is None:
        collect_ignore += ["test_browser.py"]


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """Where the packages are, installed once for all processes of this run."""
    root = tmp_path_factory.getbasetemp().parent / f"node-{testrun_uid}"
    root.mkdir(exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "installed").exists():
            done = subprocess.run(INSTALL, cwd=root, capture_output=True, text=True, timeout=180, check=False)
            assert done.returncode == 0, done.stderr
            (root / "installed").touch()
    return root / "node_modules"
