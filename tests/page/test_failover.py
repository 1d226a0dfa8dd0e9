"""The page while Redis fails: it shows the switch, and its subscription loses nothing and repeats nothing."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from playwright.sync_api import Browser

from tests.support.browser import opened
from tests.support.process import bridge as running_bridge
from tests.support.stack import Stack


@pytest.fixture
def send(stack: Stack) -> Iterator[Callable[[int], None]]:
    """Sends so many more numbered events."""
    sent = 0
    with psycopg.connect(stack.postgres.url(), autocommit=True) as connection:

        def some(number: int) -> None:
            nonlocal sent
            for _ in range(number):
                connection.execute("SELECT pg_notify('a', %s)", (json.dumps({"n": sent}),))
                sent += 1

        yield some


def test_redis_is_killed_and_comes_back(browser: Browser, stack: Stack, send: Callable[[int], None]) -> None:
    with running_bridge(stack.environment(BRIDGE_CHANNELS="a,b"), "serve") as bridge:
        bridge.wait_until_ready()
        with opened(browser, bridge) as shown:
            shown.mode("redis")
            assert shown.page.is_hidden("#send")
            shown.start()
            send(20)
            shown.events(20)
            stack.redis.kill()
            send(20)
            shown.mode("direct")
            assert shown.page.inner_text("#health") == "degraded"
            shown.until("/lost/.test(document.getElementById('links').innerText)")
            assert "Mode is now direct: Direct." in shown.page.inner_text("#announcement")
            assert shown.page.inner_text("#mode-reason")
            send(20)
            shown.events(60)
            stack.redis.start()
            shown.mode("redis")
            send(20)
            payloads = [f'{{"n": {n}}}' for n in range(80)]
            assert shown.events(80) == payloads
            modes = shown.page.evaluate("[...document.querySelectorAll('#switches li')].map(row => row.dataset.mode)")
            assert modes[::-1][-3:] == ["direct", "none", "redis"] or modes[::-1][-2:] == ["direct", "redis"], modes
            assert shown.notes("gap") == shown.notes("reconnect") == []


def test_a_server_without_a_listener_shows_what_is_pending_late_and_filled(
    browser: Browser, stack: Stack, send: Callable[[int], None]
) -> None:
    settings = stack.environment(BRIDGE_CHANNELS="a,b")
    with ExitStack() as running:
        running.enter_context(running_bridge(settings, "listen"))
        bridge = running.enter_context(running_bridge(settings, "serve", "--no-listener"))
        bridge.wait_until_ready()
        shown = running.enter_context(opened(browser, bridge))
        shown.mode("redis")
        shown.start()
        send(10)
        shown.events(10)
        stack.redis.kill()
        send(10)  # while nobody here listens
        shown.mode("direct")
        send(10)
        shown.wait_for_note("pending")
        stack.redis.start()
        shown.mode("redis")
        send(10)
        payloads = shown.events(40)
        assert sorted(int(re.findall(r"\d+", payload)[0]) for payload in payloads) == list(range(40))
        shown.wait_for_note("filled")
        assert shown.notes("gap") == []
        late = shown.page.locator("#events li[data-kind=late]").count()
        assert shown.page.inner_text("#count-late") == str(late)
        assert late > 0
        assert set(shown.page.locator("#events li[data-kind=late] em").all_inner_texts()) == {"late"}
