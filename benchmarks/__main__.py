"""All benchmarks, one after the other, and the report of what they have found.

    python -m benchmarks [--only NAME …] [--lock FILE]

Takes the better part of an hour. A benchmark that fails is named, and the others go on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.lib.failure import BenchmarkFailed, run
from benchmarks.report import DOCS, ORDER, RESULTS, write

MOST_SECONDS = 3600.0


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", nargs="+", default=list(ORDER), choices=ORDER, metavar="NAME")
    made.add_argument(
        "--lock", type=Path, metavar="FILE", help="hold a lock on this file whenever something is measured"
    )
    options = made.parse_args()
    lock = ["--lock", str(options.lock)] if options.lock else []
    failed = [name for name in options.only if not _run(name, lock)]
    write(RESULTS, DOCS)
    if failed:
        raise BenchmarkFailed(f"failed: {', '.join(failed)}")


def _run(name: str, arguments: list[str]) -> bool:
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(RESULTS / f"{name}.json"), *arguments]
    try:
        return subprocess.run(command, timeout=MOST_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


if __name__ == "__main__":
    run(main)
