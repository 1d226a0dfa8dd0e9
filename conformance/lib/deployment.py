"""The deployment under test, whether it was given or started here, in the words that the checks use.

What a given deployment does not allow (no command that kills, no logs) skips the check that needs it, with the reason.
"""

import http.client
import json
import re
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from conformance.lib import tokens
from conformance.lib.given import DEFAULT_CHANNELS, Given, Place
from conformance.lib.local import LISTENERS, POSTGRES, REDIS, SERVERS, LocalDeployment
from conformance.lib.tools import Psql, RedisCli
from conformance.lib.wait import wait_for
from conformance.lib.web import Answer, request

COMMAND_SECONDS = 120.0
HEALTHY_SECONDS = 90.0
RUN = "conformance-"
"""How the names of runs begin."""


class Deployment:
    """Servers and listeners with a PostgreSQL and a Redis behind them."""

    def __init__(self, given: Given | None, local: LocalDeployment | None) -> None:
        assert (given is None) != (local is None)
        self._given = given
        self._local = local
        if local is not None:
            self.servers: tuple[Place, ...] = tuple(Place(name, local.urls[name]) for name in SERVERS)
            self.listeners: tuple[Place, ...] = tuple(Place(name, local.urls[name]) for name in LISTENERS)
            self.prefix, self.channels = "pg_notify", tuple(DEFAULT_CHANNELS.split(","))
            self.redis_name, self.postgres_name = REDIS, POSTGRES
        elif given is not None:
            self.servers, self.listeners = given.servers, given.listeners
            self.prefix, self.channels = given.prefix, given.channels
            self.redis_name, self.postgres_name = given.redis_name, given.postgres_name

    @property
    def is_local(self) -> bool:
        return self._local is not None

    def only_local(self, what: str) -> None:
        """Skip what a given deployment is not to suffer."""
        if not self.is_local:
            pytest.skip(f"{what} is done to servers that were started here alone")

    @property
    def has_auth(self) -> bool:
        return self._given is not None and bool(self._given.jwt_key or self._given.token)

    @property
    def jwt_key(self) -> str:
        return self._given.jwt_key if self._given is not None else ""

    @property
    def settings(self) -> dict[str, str]:
        """Settings for further processes on the same PostgreSQL and Redis."""
        if self._local is None:
            pytest.skip("this starts processes with settings of its own, which a given deployment is not asked to hold")
        return self._local.settings

    @property
    def other_server(self) -> Place:
        if len(self.servers) < 2:
            pytest.skip("this needs two servers in CONFORMANCE_URLS")
        return self.servers[1]

    @property
    def psql(self) -> Psql:
        if self._local is not None:
            return Psql(["psql", self._local.postgres.url()])
        assert self._given is not None
        if not self._given.psql:
            pytest.skip("this needs DATABASE_URL or CONFORMANCE_PSQL")
        return Psql(self._given.psql)

    @property
    def redis_cli(self) -> RedisCli:
        if self._local is not None:
            return RedisCli(["redis-cli", "-u", self._local.redis.url])
        assert self._given is not None
        if not self._given.redis_cli:
            pytest.skip("this needs REDIS_URL or CONFORMANCE_REDIS_CLI")
        return RedisCli(self._given.redis_cli)

    def notify(self, channel: str, *payloads: object) -> None:
        """Payloads in one transaction: texts as they are, anything else as JSON."""
        texts = [payload if isinstance(payload, str) else json.dumps(payload) for payload in payloads]
        self.psql.notify(*((channel, text) for text in texts))

    def path(self, path: str) -> str:
        """The path with a token, where the deployment wants one and the path has none."""
        token = None if "token=" in path else self.token()
        return path + (f"{'&' if '?' in path else '?'}token={quote(token)}" if token else "")

    def token(self) -> str | None:
        if self._given is None:
            return None
        if self._given.jwt_key:
            return tokens.token(self._given.jwt_key, exp=time.time() + 3600)
        return self._given.token or None

    def get(self, place: Place, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        if not place.url:
            pytest.skip(f"no URL is known of {place.name}")
        return request(place.url, path, headers, method=method)

    def health(self, place: Place) -> tuple[str, str]:
        """Status and mode, or the error where there is no answer."""
        try:
            answer = self.get(place, "/health").json()
        except (OSError, http.client.HTTPException) as error:  # also where it ended while it answered
            return "unreachable", str(error)
        return answer["status"], answer["mode"]

    def wait_until_healthy(self, seconds: float = HEALTHY_SECONDS) -> None:
        """Wait until every server says that all is well in Redis mode, and every listener that it works.

        Where listeners cannot be asked, their sessions are counted.
        """
        places = [*self.servers, *(place for place in self.listeners if place.url)]
        counts = len(places) < len(self.servers) + len(self.listeners)

        def well() -> bool:
            return all(self.health(place) == ("ok", "redis") for place in places) and (not counts or self._all_listen())

        try:
            wait_for(well, "everything is well again", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {[(place.name, self.health(place)) for place in places]}") from None

    def _all_listen(self) -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bridge listener'"
        try:
            return self.psql.rows(query) == [[str(len(self.listeners))]]
        except AssertionError:  # PostgreSQL is away
            return False

    def wait_for_mode(self, mode: str, seconds: float = HEALTHY_SECONDS) -> None:
        """Wait until every server is in this mode."""
        wait_for(
            lambda: all(self.health(place)[1] == mode for place in self.servers),
            f"all servers in mode {mode}",
            seconds,
        )

    def kill(self, name: str) -> None:
        """End a process at once, as SIGKILL does."""
        self._break("kill", "CONFORMANCE_KILL", name)

    def stop(self, name: str) -> None:
        """End a process as an orchestrator does, with SIGTERM."""
        self._break("stop", "CONFORMANCE_STOP", name)

    def start(self, name: str) -> None:
        """Start again what was killed or stopped."""
        self._break("start", "CONFORMANCE_START", name)

    @contextmanager
    def silent_redis(self) -> Iterator[None]:
        """Redis says nothing while inside, though every connection stays; where it was given, for a few seconds."""
        if self._local is not None:
            with self._local.redis.paused():
                yield
        else:
            self.redis_cli.run("CLIENT", "PAUSE", "4000", "ALL")
            yield

    def end_all_sessions(self) -> None:
        """Terminate all that LISTEN at once: where it can be helped none is back before the last one has gone."""
        end = "SELECT count(pg_terminate_backend(pid{})) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        if self._local is None:
            self.psql.rows(end.format(""))
        else:  # nobody can log in meanwhile
            closed = "LOCK TABLE pg_catalog.pg_authid IN ACCESS EXCLUSIVE MODE"
            self.psql.rows(f"BEGIN; {closed}; {end.format(', 30000')}; COMMIT")

    def can_break(self) -> None:
        """Skip where processes can be neither killed nor started."""
        if self._given is not None and not (self._given.kill and self._given.start):
            pytest.skip("this needs CONFORMANCE_KILL and CONFORMANCE_START")

    def can_stop(self) -> None:
        """Skip where processes can be neither stopped nor started."""
        if self._given is not None and not (self._given.stop and self._given.start):
            pytest.skip("this needs CONFORMANCE_STOP and CONFORMANCE_START")

    def log(self, name: str) -> list[str]:
        """All lines that a process has logged."""
        if self._local is not None:
            return self._local.log(name).splitlines()
        assert self._given is not None
        if not self._given.logs:
            pytest.skip("this needs CONFORMANCE_LOGS")
        return _run(self._given.logs, name).splitlines()

    def _break(self, how: str, variable: str, name: str) -> None:
        if self._local is not None:
            getattr(self._local, how)(name)
            return
        command = str(getattr(self._given, how))
        if not command:
            pytest.skip(f"this needs {variable}")
        _run(command, name)


class LogMark:
    """The end of a process's log at a time, to read what came after it."""

    def __init__(self, deployment: Deployment, name: str) -> None:
        self._deployment = deployment
        self._name = name
        self._count = len(deployment.log(name))

    def lines(self) -> list[str]:
        return self._deployment.log(self._name)[self._count :]

    def wait_for(self, level: str, text: str, seconds: float = 60.0) -> str:
        """The first line with this level and a text that begins so."""
        return wait_for(lambda: self.find(level, text), f"{level} {text!r} in the log of {self._name}", seconds)

    def find(self, level: str, text: str) -> str | None:
        return next((line for line in self.lines() if re.search(rf"\b{level} +{re.escape(text)}", line)), None)

    def in_order(self, *wanted: tuple[str, str]) -> None:
        """Fail unless these levels and texts begin lines in this order, each exactly once."""
        found = [
            pair for line in self.lines() for pair in wanted if re.search(rf"\b{pair[0]} +{re.escape(pair[1])}", line)
        ]
        assert found == list(wanted), "\n".join(self.lines())


def new_run() -> str:
    """A name that no other payload holds."""
    return f"{RUN}{uuid.uuid4().hex[:12]}"


def _run(command: str, name: str) -> str:
    arguments: Sequence[str] = [part.replace("{name}", name) for part in shlex.split(command)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    assert done.returncode == 0, f"{shlex.join(arguments)} failed: {done.stderr or done.stdout}"
    return done.stdout + done.stderr
