"""`doctor`: checks settings, PostgreSQL and Redis, and says in words what is wrong."""

import subprocess
from pathlib import Path

import pytest

from conformance.lib.deployment import Deployment
from conformance.lib.given import Place
from conformance.lib.processes import run
from conformance.lib.wait import wait_for
from tests.support.ports import free_port


def _doctor(home: Path, place: Place, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run(home, ["doctor"], **settings, BRIDGE_PORT=place.url.rpartition(":")[2])


def test_doctor_when_all_is_well(deployment: Deployment, tmp_path: Path) -> None:
    """`doctor` checks settings, PostgreSQL and Redis: exit code 0 if all is well."""

    def all_is_well() -> str:
        done = _doctor(tmp_path, deployment.servers[0], deployment.settings)
        print(done.stdout + done.stderr)
        return done.stdout if done.returncode == 0 else ""

    said = wait_for(all_is_well, "all is well: what does not answer for seconds, as on a busy machine, is not")
    assert "PostgreSQL" in said
    assert "Redis" in said


@pytest.mark.parametrize("broken", ["DATABASE_URL", "REDIS_URL"])
def test_doctor_when_something_is_wrong(deployment: Deployment, tmp_path: Path, broken: str) -> None:
    """`doctor` says in words what is wrong and what to do: exit code 1."""
    port = free_port()
    urls = {
        "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{port}/postgres",
        "REDIS_URL": f"redis://127.0.0.1:{port}",
    }
    done = _doctor(tmp_path, deployment.servers[0], deployment.settings | {broken: urls[broken]})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert str(port) in done.stdout + done.stderr


def test_doctor_with_bad_settings(deployment: Deployment, tmp_path: Path) -> None:
    """`doctor` with settings that cannot be read: exit code 2 and one line, as for every command."""
    done = _doctor(tmp_path, deployment.servers[0], deployment.settings | {"BRIDGE_HISTORY_ENTRIES": "many"})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "BRIDGE_HISTORY_ENTRIES" in line
