"""The programs of the API's guide, run as they stand there: on asyncio and on trio, against real servers."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from websockets.sync.client import connect

from bridge.core.position import Position
from docs.render_api import MARK, PAGE
from tests.support.fleet import WHOLE, Fleet, Servers, running_fleet
from tests.support.fleet import servers as servers
from tests.support.process import clean_environment, wait_until
from tests.support.redis import free_port

Loop = Literal["asyncio", "trio"]
WAIT_SECONDS = 60.0

ON_ASYNCIO = "asyncio.run(main())  # or: trio.run(main)\n"
_GUIDE = PAGE.read_text().partition(MARK)[0]
PROGRAMS = dict(re.findall(r"^### ([^\n]+)\n(?:(?!\n#).)*?```python\n(.*?)```", _GUIDE, re.MULTILINE | re.DOTALL))
CONSUMERS = "Several consumers, which go on where they were"
ENDPOINTS = "Clients of a FastAPI or Starlette application"

on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])


@pytest.fixture(scope="module")
def fleet(servers: Servers) -> Iterator[Fleet]:
    """A gateway with a listener of its own."""
    with running_fleet(servers, "pg_notify") as running:
        running.add("gateway", WHOLE)
        running.wait()
        yield running


@dataclass
class Program:
    """A running program, and what it has printed."""

    process: subprocess.Popen[bytes]
    output: Path

    def printed(self) -> str:
        return self.output.read_text()

    def end(self) -> None:
        """As Control-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(WAIT_SECONDS)


@dataclass
class World:
    fleet: Fleet
    directory: Path

    def text(self, title: str, loop: Loop) -> str:
        """A program of the page, but for where the servers are, and for its loop."""
        text = str(PROGRAMS[title]).replace("http://127.0.0.1:8000", self.fleet.processes["gateway"].url)
        text = text.replace("redis://localhost:6379", self.fleet.settings["REDIS_URL"])
        if loop == "trio":
            assert ON_ASYNCIO in text
            text = text.replace(ON_ASYNCIO, "trio.run(main)\n").replace("import asyncio\n", "import trio\n")
        return text

    @contextmanager
    def running(self, *command: str) -> Iterator[Program]:
        """A Python in the directory, with settings by the environment alone; killed at the end, if it still runs."""
        settings = {name: self.fleet.settings[name] for name in ("DATABASE_URL", "REDIS_URL")}
        environment = clean_environment(settings) | {"PYTHONPATH": str(Path.cwd()), "PYTHONUNBUFFERED": "1"}
        output = self.directory / "output"
        with (
            output.open("wb") as file,
            subprocess.Popen(
                [sys.executable, *command], cwd=self.directory, env=environment, stdout=file, stderr=subprocess.STDOUT
            ) as process,
        ):
            try:
                yield Program(process, output)
            finally:
                process.kill()

    def notify(self, channel: str, **payload: int) -> None:
        self.fleet.postgres.execute("SELECT pg_notify(%s, %s)", channel, json.dumps(payload))


@pytest.fixture
def world(fleet: Fleet, tmp_path: Path) -> World:
    return World(fleet, tmp_path)


def test_the_programs_are_found() -> None:
    assert len(PROGRAMS) == 5
    assert {CONSUMERS, ENDPOINTS} <= set(PROGRAMS)


@on_both_loops
@pytest.mark.parametrize("title", [title for title in PROGRAMS if title != ENDPOINTS])
def test_prints_what_is_notified(world: World, title: str, loop: Loop) -> None:
    (world.directory / "program.py").write_text(world.text(title, loop))
    with world.running("program.py") as program:

        def heard() -> bool:
            assert program.process.poll() is None, program.printed()
            world.notify("match_change", match_id=7)
            return "match_change {'match_id': 7}" in program.printed()

        wait_until(heard, program.printed, WAIT_SECONDS)
        program.end()
    assert not re.search("never (awaited|retrieved)", program.printed())


@on_both_loops
def test_consumers_go_on_where_they_were(world: World, loop: Loop) -> None:
    (world.directory / "program.py").write_text(world.text(CONSUMERS, loop))

    def printed(number: int) -> str:
        return f"scoreboard_change {{'n': {number}}}"

    kept = world.directory / "scoreboard_change.cursor"
    with world.running("program.py") as program:

        def heard() -> bool:
            world.notify("scoreboard_change", n=1)
            return printed(1) in program.printed() and (world.directory / "match_change.cursor").exists()

        wait_until(heard, program.printed, WAIT_SECONDS)
        with kept.open() as earlier:
            known = kept.stat().st_ino
            wait_until(lambda: heard() and kept.stat().st_ino != known, program.printed, WAIT_SECONDS)
            assert Position.parse(earlier.read()), "it was written over: whoever ends it in that moment loses both"
        program.end()
    for number in (2, 3):
        world.notify("scoreboard_change", n=number)
    world.notify("match_change", match_id=8)
    world.notify("match_change", match_id=7)
    with world.running("program.py") as program:
        wait_until(
            lambda: printed(3) in program.printed() and "'match_id': 7" in program.printed(),
            program.printed,
            WAIT_SECONDS,
        )
        program.end()
    assert program.printed().count(printed(2)) == 1
    assert "'match_id': 8" not in program.printed()


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
def test_endpoints_serve(world: World, server: str) -> None:
    (world.directory / "app.py").write_text(PROGRAMS[ENDPOINTS])
    port = free_port()
    options = (
        ["--port", str(port)] if server == "uvicorn" else ["--worker-class", "trio", "--bind", f"127.0.0.1:{port}"]
    )
    with world.running("-m", server, "app:app", *options) as program:
        wait_until(lambda: "unning on http" in program.printed(), program.printed, WAIT_SECONDS)
        with connect(f"ws://127.0.0.1:{port}/ws/match/7/stats") as client:
            assert json.loads(client.recv(WAIT_SECONDS))["type"] == "subscribed"
            world.notify("match_change", match_id=8)
            world.notify("match_change", match_id=7)
            assert json.loads(client.recv(WAIT_SECONDS))["payload"] == {"match_id": 7}
        program.end()
