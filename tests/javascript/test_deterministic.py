"""The client on sockets, a clock and a chance of the test (`client.test.mjs`), in Node."""

import os
import re
import subprocess
from pathlib import Path

from tests.support.cli import ROOT

CLIENT = ROOT / "bridge" / "server" / "page" / "client.js"
TESTS = Path(__file__).parent / "client.test.mjs"


def test_all_that_needs_no_network(node: str) -> None:
    command = [node, "--test", "--test-reporter=tap", str(TESTS)]
    done = subprocess.run(
        command, env=os.environ | {"CLIENT": str(CLIENT)}, capture_output=True, text=True, timeout=600, check=False
    )
    failures = re.findall(r"^ *not ok .*\n(?:.*\n){0,30}", done.stdout, re.MULTILINE)
    assert done.returncode == 0, "\n".join(failures) or done.stdout + done.stderr
    passed = re.search(r"^# pass (\d+)", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 100
