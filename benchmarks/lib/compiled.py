"""The parts in C, compiled on the fly into build/benchmarks with `cc -O2`."""

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.lib.failure import BenchmarkFailed

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "benchmarks"


def compiled(name: str) -> Path:
    """The program made of `lib/NAME.c`, compiled where it is older than the sources."""
    target, source = BUILD / name, HERE / f"{name}.c"
    newest = max(path.stat().st_mtime for path in (source, *HERE.glob("*.h")))
    if target.exists() and target.stat().st_mtime > newest:
        return target
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchmarkFailed(
            "no C compiler: the benchmarks' receiver is written in C; install cc (Debian: apt install gcc)"
        )
    BUILD.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(f".{os.getpid()}")
    made = subprocess.run([compiler, "-O2", "-o", fresh, source], capture_output=True, text=True, timeout=120)
    if made.returncode:
        raise BenchmarkFailed(f"{source.name} does not compile: {made.stderr.strip().splitlines()[0]}")
    fresh.replace(target)
    return target
