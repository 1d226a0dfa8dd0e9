"""Which peers are there, and how they get there.

python -m benchmarks.peers            names them, and what is missing
python -m benchmarks.peers install    Debian's packages (as root), the others into build/peers
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.lib.table import terminal
from benchmarks.peers import PEERS
from benchmarks.peers.common import DEBIAN, DEBIAN_NODE, NODE, NPM, PYPI, VENV

INSTALL_SECONDS = 900.0


def install() -> None:
    """Everything that all peers need. The servers that Debian may start by itself are not used, and may be stopped."""
    packages = DEBIAN if shutil.which("npm") else DEBIAN + DEBIAN_NODE
    apt = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if os.geteuid() == 0:
        _run(["apt-get", "update"])
        _run(apt)
    else:
        print(f"not root, so this is left to you: {' '.join(apt)}")
    NODE.mkdir(parents=True, exist_ok=True)
    _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", NODE, *NPM])
    venv.create(VENV, with_pip=True)
    _run([VENV / "bin" / "pip", "install", "--quiet", *PYPI])


def _run(command: list[str | Path]) -> None:
    print(" ".join(map(str, command)), flush=True)
    try:
        subprocess.run(command, check=True, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchmarkFailed(f"cannot install the peers: {error}") from error


def main() -> None:
    if sys.argv[1:] == ["install"]:
        install()
    elif sys.argv[1:]:
        raise BenchmarkFailed("the only argument there is: install")
    rows = []
    for peer in PEERS:
        missing = peer.missing()
        found = "" if missing else ", ".join(f"{name} {version}" for name, version in peer.versions().items())
        rows.append({"peer": peer.name, "there": missing or found})
    print(terminal(rows))


if __name__ == "__main__":
    run(main)
