"""What all checks share: the deployment, clients that others wrote, and the rule that nothing is skipped locally."""

import os
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from conformance.lib.clients import (
    BrowserClient,
    EventSourceClient,
    NodeClient,
    PythonClient,
    WebSocketClient,
)
from conformance.lib.deployment import Deployment, new_run
from conformance.lib.face import Begin, Open, OpenSource
from conformance.lib.given import Place, given
from conformance.lib.local import local_deployment
from conformance.lib.processes import Nursery, nursery
from conformance.lib.story import Journey, Traveller, journeying
from tests.support.programs import CHROMIUM_ARGUMENTS, lacking, npm_packages


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A given deployment is one thing that the checks break and watch, so they run one after the other."""
    if given() is not None:
        config.option.numprocesses = 0
        config.option.dist = "no"
        config.option.tx = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "anywhere: the same whatever servers are behind; once is enough")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Started locally there is no reason to skip anything: whoever lacks a program has not checked everything."""
    report = yield
    report.promise = " ".join((item.function.__doc__ or "").split())  # type: ignore[attr-defined]
    if report.skipped and not hasattr(report, "wasxfail") and given() is None:
        why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"not checked, though the servers were started here: {why}"
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """With `-v` each check that passed is followed by the promise that it checks."""
    if report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
        return "passed", ".", f"PASSED  {getattr(report, 'promise', '')}"
    return None


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    """The deployment under test, healthy."""
    if (there := given()) is not None:
        deployment = Deployment(there, None)
        deployment.wait_until_healthy()
        yield deployment
        return
    with local_deployment() as local:
        deployment = Deployment(None, local)
        deployment.wait_until_healthy()
        yield deployment


@pytest.fixture
def whole(deployment: Deployment) -> Iterator[Deployment]:
    """The deployment for a check that breaks something: afterwards it is whole again, or this says what is not."""
    deployment.wait_until_healthy()
    yield deployment
    deployment.wait_until_healthy()


@pytest.fixture
def run() -> str:
    """A name for the payloads of one check: `where.run` keeps out what others send."""
    return new_run()


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Where `ws` from npm is."""
    return npm_packages(tmp_path_factory, worker_id, "ws@8")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window: the installed one, else Playwright's own."""
    path = os.environ.get("CONFORMANCE_BROWSER") or which("chromium") or which("google-chrome")
    started, failed = None, ""
    with sync_playwright() as playwright:
        try:
            arguments = ["--no-sandbox", *CHROMIUM_ARGUMENTS]
            started = playwright.chromium.launch(executable_path=path, args=arguments, timeout=120_000)
        except Error as error:
            failed = str(error).strip().partition("\n")[0]
        if started is None:
            lacking(f"no Chromium can be started; apt-get install chromium, or set CONFORMANCE_BROWSER: {failed}")
        yield started
        started.close()


@pytest.fixture
def open_client(request: pytest.FixtureRequest, deployment: Deployment) -> Iterator[Open]:
    """Opens clients of any kind that are told `subscribed`, and closes them in the end."""
    with ExitStack() as stack:

        def opened(place: Place, path: str = "/ws", kind: str = "python", **options: Any) -> WebSocketClient:
            shows_token = "headers" in options or "protocols" in options
            url = place.url.replace("http", "ws", 1) + (path if shows_token else deployment.path(path))
            client: WebSocketClient
            if kind == "python":
                client = PythonClient(url, **options)
            elif kind == "node":
                client = NodeClient(request.getfixturevalue("node_modules"), url, **options)
            else:
                client = BrowserClient(request.getfixturevalue("browser"), url, **options)
            stack.callback(client.close)
            client.subscribed = client.next()
            assert client.subscribed["type"] == "subscribed", client.subscribed
            return client

        yield opened


@pytest.fixture
def event_source(browser: Browser, deployment: Deployment) -> Iterator[OpenSource]:
    """Opens a browser's EventSource."""
    with ExitStack() as stack:

        def opened(place: Place, path: str) -> EventSourceClient:
            client = EventSourceClient(browser, place.url + deployment.path(path), page_url=place.url + "/health")
            stack.callback(client.close)
            return client

        yield opened


@pytest.fixture
def processes() -> Iterator[Nursery]:
    """Starts further processes of the bridge, which end with the check."""
    with nursery() as started:
        yield started


@pytest.fixture
def journey(deployment: Deployment, run: str) -> Begin:
    """A context: a writer, and travellers that begin at each server in turn, everything flowing."""

    def begin(*, per_second: float = 100.0) -> AbstractContextManager[Journey]:
        urls = [place.url for place in deployment.servers]
        turns = [[*urls[place:], *urls[:place]] for place in range(len(urls))]
        travellers = {
            f"{number} at {turn[0]}": Traveller(turn, f"/ws?where.run={run}", deployment.token())
            for number, turn in enumerate(turns)
        }
        return journeying(travellers, deployment.psql, deployment.channels, run, per_second)

    return begin
