"""A signal while a command loads: Python ignores what a handler raises in a finalizer, and goes on."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys
from bridge.cli.signals import exit_on_signals, run_trio

class Finalized:
    def __del__(self):
        signal.raise_signal(int(sys.argv[1]))

async def main():
    print("it ran")

exit_on_signals()
Finalized()
print("ignored")
run_trio(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_came_where_errors_are_ignored_ends_it_all_the_same(number: signal.Signals) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(number))], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ignored\n", "")
