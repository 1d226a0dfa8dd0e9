"""`serve --workers N`: one listener process and N server processes that share a port, as one."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from conformance.lib.clients import PythonClient
from conformance.lib.deployment import Deployment, new_run
from conformance.lib.processes import Nursery, Process
from conformance.lib.processes import run as run_command
from conformance.lib.story import Journey, Traveller, journeying
from conformance.lib.wait import wait_for

pytestmark = pytest.mark.anywhere

WORKERS = 2
Start = Callable[..., Process]


@pytest.fixture
def prefix(deployment: Deployment) -> Iterator[str]:
    """Of a log of its own, which is deleted when all that write there have ended."""
    own = new_run()
    yield own
    if keys := deployment.redis_cli.run("--scan", "--pattern", f"{own}:*"):
        deployment.redis_cli.run("DEL", *keys)


@pytest.fixture
def start(deployment: Deployment, prefix: str, processes: Nursery) -> Iterator[Start]:
    """Starts a pod beside the deployment, with a log of its own, and waits until all of it is well."""
    pods: list[Process] = []

    def started(*arguments: str, **settings: str) -> Process:
        own = {"BRIDGE_PORT": "0", "BRIDGE_REDIS_PREFIX": prefix, **settings}
        process = processes.start("serve", "--workers", str(WORKERS), *arguments, **deployment.settings | own)
        pods.append(process)
        process.listening()
        wait_for(
            lambda: all(one["status"] == "ok" for one in members(process)), f"all is well; the log:\n{process.log()}"
        )
        return process

    yield started
    for process in pods:
        if process.process.poll() is None:
            process.end()


def status_of(process: Process) -> dict[str, Any]:
    """/status of a whole pod: on a busy machine a worker may have to answer for itself alone."""

    def of_all() -> dict[str, Any] | None:
        found: dict[str, Any] = process.get("/status").json()
        return found if "processes" in found else None

    return wait_for(of_all, "/status is of all processes")


def members(process: Process) -> list[dict[str, Any]]:
    """The processes of a pod, as /status names them."""
    try:
        found: list[dict[str, Any]] = status_of(process)["processes"]
    except OSError:  # who answered was just killed
        return [{"status": "away"}]
    return found


def clients_of(process: Process, count: int, run: str) -> list[PythonClient]:
    """So many, of whom every worker has some: who gets no processor for a moment has no turn, and is given another."""
    clients: list[PythonClient] = []

    def counts() -> list[int] | None:
        found = [one["clients"] for one in members(process) if one["role"] == "worker"]
        return found if sum(found) == count else None

    def spread() -> bool:
        if len(clients) == count:
            clients.pop(0).close()
        while len(clients) < count:
            clients.append(PythonClient(process.url.replace("http", "ws", 1) + f"/ws?where.run={run}"))
            assert clients[-1].next()["type"] == "subscribed"
        return all(wait_for(counts, f"there are {count} clients"))

    wait_for(spread, "every worker has clients")
    return clients


def runs(pid: int) -> bool:
    """Whether there is this process, and not only what nobody has asked for of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def travelling(deployment: Deployment, process: Process, run: str, count: int = 4) -> AbstractContextManager[Journey]:
    """A writer, and travellers that come back to the pod whenever they are disconnected."""
    travellers = {f"{number}": Traveller([process.url], f"/ws?where.run={run}", None) for number in range(count)}
    return journeying(travellers, deployment.psql, deployment.channels, run)


def sessions(deployment: Deployment) -> Counter[str]:
    """How many sessions listen, by `application_name`."""
    query = "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    return Counter(row[0] for row in deployment.psql.rows(query))


@pytest.mark.parametrize("with_redis", ["true", "false"])
def test_workers_share_a_port_and_a_session(whole: Deployment, start: Start, run: str, with_redis: str) -> None:
    """`serve --workers N`: one listener process and N server processes sharing the port; in Redis mode and with Redis
    off one LISTEN session, the listener's. /status and /metrics are over all processes."""
    before = Counter({"bridge listener": len(whole.listeners)})
    process = start(USE_REDIS_NOTIFIER=with_redis)
    assert Counter(one["role"] for one in members(process)) == {"listener": 1, "worker": WORKERS}
    clients = clients_of(process, 6, run)
    try:
        whole.notify("match_change", *[{"run": run, "n": n} for n in range(10)])
        for client in clients:
            assert [payload["n"] for payload in client.payloads(10)] == list(range(10))
        wait_for(
            lambda: sessions(whole) == before + Counter({"bridge listener": 1}), "one session more, the listener's"
        )
        wait_for(lambda: status_of(process)["clients"] == 6, "/status counts all clients")
        for line in ("notify_bridge_clients 6.0", "notify_bridge_deliveries_total 60.0"):
            wait_for(lambda: line in process.get("/metrics").text, f"/metrics has {line}")  # noqa: B023
    finally:
        for client in clients:
            client.close()
    assert process.end() == 0
    assert "Traceback" not in process.log()


def test_redis_goes_and_comes_back(whole: Deployment, start: Start, run: str) -> None:
    """In fallback the listener of the pod feeds its workers: one LISTEN session whatever fails, no event lost."""
    process = start()
    with travelling(whole, process, run) as journey:
        expected = {"bridge listener": len(whole.listeners) + 1, "bridge fallback": len(whole.servers)}
        whole.kill(whole.redis_name)
        try:
            wait_for(lambda: process.get("/health").json()["mode"] == "direct", "the pod is in fallback")
            journey.flow()
            wait_for(lambda: sessions(whole) == expected, "no session of the pod's but its listener's")
        finally:
            whole.start(whole.redis_name)
        wait_for(lambda: status_of(process)["mode"] == "redis", "the pod is back")
        journey.flow()
        journey.settle()


@pytest.mark.parametrize("with_redis", ["true", "false"])
def test_a_killed_worker_is_started_again(whole: Deployment, start: Start, run: str, with_redis: str) -> None:
    """A worker that dies is started again; its clients resume at the others, each event once."""
    process = start(USE_REDIS_NOTIFIER=with_redis)
    with travelling(whole, process, run) as journey:
        victim = next(one for one in members(process) if one["role"] == "worker" and one["clients"])
        os.kill(victim["pid"], signal.SIGKILL)
        journey.flow()
        assert any(traveller.connections > 1 for traveller in journey.travellers.values())

        def replaced() -> bool:
            return any(
                one.get("name") == victim["name"] and one["pid"] != victim["pid"] and one["status"] == "ok"
                for one in members(process)
            )

        wait_for(replaced, "another process takes its place")
        journey.flow()
        journey.settle()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_drain_together(start: Start, run: str, number: signal.Signals) -> None:
    """Clients of all workers are closed with 1001; exit code 0; no process stays behind."""
    process = start(BRIDGE_DRAIN_SECONDS="4")
    clients = clients_of(process, 6, run)
    pids = [one["pid"] for one in members(process)]
    assert process.end(number) == 0
    assert [client.closed().code for client in clients] == [1001] * 6
    assert not [pid for pid in pids if runs(pid)]


def test_nothing_stays_behind_where_the_first_process_is_killed(start: Start) -> None:
    """The processes of a pod end without the one that started them."""
    process = start()
    pids = [one["pid"] for one in members(process)]
    process.process.kill()
    process.wait()
    wait_for(lambda: not [pid for pid in pids if runs(pid)], "all have ended")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "", "1000"])
def test_a_bad_number(deployment: Deployment, processes: Nursery, value: str) -> None:
    """Exit code 2 and one line that names the argument."""
    done = run_command(processes.home(), ["serve", f"--workers={value}"], **deployment.settings)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--workers" in done.stderr
