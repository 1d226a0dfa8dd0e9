"""`serve --workers N` as a process, and its children as /status names them."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.process import BridgeProcess, bridge, wait_until


class PodProcess:
    """A pod that runs."""

    def __init__(self, running: BridgeProcess) -> None:
        self.running = running

    def status(self) -> dict[str, Any]:
        """/status of all of it. A worker whose supervisor does not answer in time speaks of itself alone."""
        found: dict[str, Any] = {}

        def of_all() -> bool:
            found.clear()
            found.update(self.running.status())
            return "processes" in found

        wait_until(of_all, lambda: f"the supervisor does not answer: {found}")
        return found

    def processes(self) -> list[dict[str, Any]]:
        """What /status says of each process."""
        found: list[dict[str, Any]] = self.status()["processes"]
        return found

    def workers(self) -> list[dict[str, Any]]:
        return [one for one in self.processes() if one["role"] == "worker"]

    def pid(self, name: str) -> int:
        return int(next(one["pid"] for one in self.processes() if one["name"] == name))

    def pids(self) -> list[int]:
        """Of all children."""
        return [one["pid"] for one in self.processes()]

    def kill(self, name: str) -> int:
        """End a child at once; the pid that it had."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_for_successor(self, name: str, pid: int, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until another process than this one does the work of that name, and says that all is well."""
        found: dict[str, Any] = {}

        def there() -> bool:
            with_name = [one for one in self.try_processes() if one["name"] == name]
            found.update(with_name[0] if with_name else {})
            return found.get("status") == "ok" and found["pid"] != pid

        wait_until(there, lambda: f"no successor of {name}: {found}\n{self.running.log()}", seconds)
        return found

    def try_processes(self) -> list[dict[str, Any]]:
        """The same, or nothing where who would have answered is just being killed."""
        try:
            return self.processes()
        except (OSError, json.JSONDecodeError):
            return []

    def wait_until_well(self, seconds: float = 60.0) -> "PodProcess":
        """Wait until every process says that all is well."""

        def well() -> bool:
            found = self.try_processes()
            return bool(found) and all(one["status"] == "ok" for one in found)

        wait_until(well, lambda: f"unwell: {self.try_processes()}\n{self.running.log()}", seconds)
        return self


@contextmanager
def pod(settings: dict[str, str], *arguments: str, workers: int = 2) -> Iterator[PodProcess]:
    """A pod of which every process is well; its children end with it."""
    with bridge(settings, "serve", "--workers", str(workers), *arguments) as running:
        yield PodProcess(running).wait_until_well()


def runs(pid: int) -> bool:
    """Whether this process is there, and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
