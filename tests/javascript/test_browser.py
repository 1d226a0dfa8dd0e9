"""The client in Chromium, imported from the bridge by a page of another origin: every event comes once."""

import functools
import http.server
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.fleet import Servers
from tests.support.fleet import servers as servers
from tests.support.javascript import SETTLE_SECONDS, Follower, flow, worker_and_writer
from tests.support.tokens import SECRET, token

BEGIN = """async ([url, options]) => {
  window.lines = [];
  const say = (line) => lines.push({ at: Date.now() / 1000, ...line });
  const { connect } = await import(`${url}/client.js`);
  const { loop, ...given } = options;
  const hear = (message) => say({ message });
  const callbacks = loop ? {} : { onSubscribed: hear, onEvent: hear, onGap: hear, onFilled: hear, onError: hear };
  const plain = (error) => error && { ...error, message: error.message };
  const onState = ({ error, ...change }) => say({ change: { ...change, error: plain(error) } });
  window.stream = connect(url, { ...given, ...callbacks, onState });
  if (loop) (async () => { for await (const event of stream) hear(event); })();
}"""


class PageFollower(Follower):
    """One in a page. What it got is fetched whenever somebody looks."""

    def __init__(self, page: Page, url: str, **options: object) -> None:
        super().__init__()
        self.page = page
        page.evaluate(BEGIN, [url, options])

    def until(self, condition: Any, seconds: float = SETTLE_SECONDS) -> None:
        def holds() -> object:
            self.lines += self.page.evaluate("() => lines.splice(0)")
            return condition()

        super().until(holds, seconds)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a web server that has one page, and nothing to do with a bridge."""
    directory = tmp_path_factory.mktemp("site")
    (Path(directory) / "index.html").write_text("<!doctype html><title>an application</title>")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=directory)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    page = browser.new_page()
    try:
        page.goto(url)
        yield page
    finally:
        page.close()


@pytest.mark.parametrize("loop", [True, False], ids=["loop", "callbacks"])
def test_a_bridge_that_is_killed_and_drained_and_comes_back(
    browser: Browser, servers: Servers, elsewhere: int, loop: bool
) -> None:
    with (
        worker_and_writer(servers, f"page{loop}") as (fleet, url, writer),
        opened(browser, f"http://127.0.0.1:{elsewhere}/") as page,
    ):
        follower = PageFollower(page, url, loop=loop)
        follower.until_listening()
        for number in (signal.SIGKILL, signal.SIGTERM):
            follower.until_has(flow(writer))
            fleet.processes["worker"].end(number)
            flow(writer)
            fleet.whole_again()
        follower.until_has(flow(writer))
        follower.judge(writer)
        reasons = [change["why"] for change in follower.changes if change["state"] == "waiting"]
        assert any(why.startswith("closed with 1001 retry=") for why in reasons)
        assert "the bridge cannot be reached, or does not let pages of this origin in" in reasons
        page.evaluate("() => stream.close()")
        follower.until(lambda: follower.states[-1] == "closed")


def test_a_page_that_is_welcome_with_a_token_and_one_that_is_not(
    browser: Browser, servers: Servers, elsewhere: int
) -> None:
    origins = f"http://127.0.0.1:{elsewhere}"
    settings = {"BRIDGE_JWT_KEY": SECRET, "BRIDGE_ALLOWED_ORIGINS": origins}
    with worker_and_writer(servers, "origin", **settings) as (_, url, _):
        with opened(browser, f"http://127.0.0.1:{elsewhere}/") as page:
            follower = PageFollower(page, url, token=token({}), channels="match_change")
            follower.until_listening()
            follower.until(lambda: len(follower.numbers) > 10)
            assert {message["channel"] for message in follower.of_type("notification")} == {"match_change"}
            refused = PageFollower(page, url, token="nonsense")
            refused.until(lambda: refused.states[-1:] == ["closed"])
            error = refused.changes[-1]["error"]
            assert (error["status"], error["message"]) == (401, "refused with 401: the token is no signed JWT")
        with opened(browser, f"http://localhost:{elsewhere}/") as page:
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            failed = page.evaluate("url => import(`${url}/client.js`).catch((error) => error.name)", url)
            assert failed == "TypeError"
            assert any("CORS" in text for text in said)
