"""The client for JavaScript that the bridge serves: public, and one stream whatever happens to its connection."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from conformance.lib import web
from conformance.lib.clients import new_page
from conformance.lib.deployment import Deployment
from conformance.lib.wait import wait_for

pytestmark = pytest.mark.anywhere

SCRIPT = Path(__file__).parent / "clients" / "follow.mjs"
BEGIN = """async ([url, options]) => {
  const { connect } = await import(`${url}/client.js`);
  window.heard = [];
  const hear = (event) => heard.push(event);
  connect(url, { ...options, onSubscribed: hear, onEvent: hear, onGap: hear, onFilled: hear, onError: hear });
}"""

Heard = Callable[[], list[dict[str, Any]]]
"""All events so far."""


@contextmanager
def in_node(node_modules: Path, url: str, options: dict[str, object]) -> Iterator[Heard]:
    process = subprocess.Popen(
        ["node", str(SCRIPT), url, json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        env={"CONFORMANCE_NODE_MODULES": str(node_modules), "PATH": os.environ["PATH"]},
    )
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lines.extend, args=[process.stdout], daemon=True)
    reader.start()
    try:
        yield lambda: [json.loads(line) for line in list(lines)]
    finally:
        process.kill()
        reader.join(10)
        process.wait(10)
        process.stdout.close()


@contextmanager
def in_browser(browser: Browser, url: str, options: dict[str, object]) -> Iterator[Heard]:
    page = new_page(browser)
    try:
        page.goto(f"{url}/health")
        page.evaluate(BEGIN, [url, options])
        yield lambda: list(page.evaluate("() => heard"))
    finally:
        page.close()


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("/client.js", "text/javascript; charset=utf-8"), ("/client.d.ts", "text/plain; charset=utf-8")],
)
def test_it_is_public(deployment: Deployment, path: str, content_type: str) -> None:
    """`/client.js` and its types are read without a token, kept, and asked for again by their tag; and by no POST."""
    url = deployment.servers[0].url
    answer = web.request(url, path)
    assert (answer.status, answer.headers["content-type"]) == (200, content_type)
    assert "export" in answer.text
    assert answer.headers["access-control-allow-origin"] == "*"
    again = web.request(url, path, {"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    head = web.request(url, path, method="HEAD")
    assert (head.status, head.headers["content-length"]) == (200, str(len(answer.body)))
    assert web.request(url, path, method="POST").status == 405


@pytest.mark.parametrize("kind", ["node", "browser"])
def test_one_stream(whole: Deployment, request: pytest.FixtureRequest, run: str, kind: str) -> None:
    """Its server is killed and comes back: the client goes on by itself, with each event and `subscribed` once."""
    whole.can_break()
    place = whole.servers[0]
    options: dict[str, object] = {"channels": "match_change", "where": {"run": run}, "token": whole.token()}
    with ExitStack() as stack:
        heard: Heard
        if kind == "node":
            heard = stack.enter_context(in_node(request.getfixturevalue("node_modules"), place.url, options))
        else:
            heard = stack.enter_context(in_browser(request.getfixturevalue("browser"), place.url, options))

        def write(first: int, last: int) -> None:
            for number in range(first, last + 1):
                whole.notify("match_change", {"run": run, "n": number})

        def numbers() -> list[int]:
            return [event["payload"]["n"] for event in heard() if event["type"] == "notification"]

        wait_for(heard, "subscribed")
        write(1, 3)
        wait_for(lambda: numbers() == [1, 2, 3], "three events")
        whole.kill(place.name)
        try:
            write(4, 6)
        finally:
            whole.start(place.name)
        whole.wait_until_healthy()
        write(7, 9)
        wait_for(lambda: numbers()[-1] == 9, "the last event")
        assert numbers() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert [event["type"] for event in heard() if event["type"] != "notification"] == ["subscribed"]
