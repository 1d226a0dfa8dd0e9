"""A real Chromium, driven by Playwright, and pages in it that may not complain.

Debian's `chromium` is used, not a browser that Playwright would download. Playwright's synchronous interface lives in
the thread of its tests, so tests that use it are plain functions, and what they start are processes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.support.process import BridgeProcess, wait_until
from tests.support.programs import CHROMIUM_ARGUMENTS, found

WAIT_MILLISECONDS = 60_000
DESKTOP: Mapping[str, Any] = {"viewport": {"width": 1200, "height": 800}}
PHONE: Mapping[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of a module."""
    path = found("chromium")
    arguments = ["--headless", *CHROMIUM_ARGUMENTS]
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        arguments += as_root
        running = playwright.chromium.launch(executable_path=path, args=arguments, timeout=2 * WAIT_MILLISECONDS)
        yield running
        running.close()


@dataclass
class Bridged:
    """The bridge's page in a tab."""

    page: Page

    def mode(self, mode: str) -> None:
        """Wait until the page shows this mode."""
        self.page.wait_for_selector(f"html[data-mode={mode}]")

    def start(self) -> None:
        """Start the subscription that the form describes, by its button, and wait until it listens."""
        self.page.click("#start")
        self.listening()

    def listening(self) -> None:
        self.page.wait_for_selector("#stream-state[data-state=listening]")

    def events(self, count: int) -> list[str]:
        """The lines of payload that are shown, oldest first, once so many events were counted."""
        self.until(f"document.getElementById('count-events').textContent === '{count:,}'")
        self.until(f"document.querySelectorAll('#events code').length >= {min(count, 200)}")
        return self.rows.locator("code").all_inner_texts()[::-1]

    def until(self, expression: str) -> None:
        """Wait until this is true in the page. Playwright's own way would need a policy that allows `eval`."""
        wait_until(lambda: self.page.evaluate(expression), lambda: f"{expression}: {self.page.inner_text('body')}")

    def notes(self, kind: str) -> list[str]:
        """What rows of this kind say that are no events, oldest first."""
        return self.page.locator(f"#events li[data-kind={kind}] span").all_inner_texts()[::-1]

    def wait_for_note(self, kind: str) -> None:
        self.page.wait_for_selector(f"#events li[data-kind={kind}]", state="attached")

    @property
    def rows(self) -> Locator:
        return self.page.locator("#events li")


@contextmanager
def opened(
    browser: Browser,
    bridge: BridgeProcess,
    *,
    script: str = "",
    own_clock: bool = False,
    complaints: tuple[str, ...] = (),
    **options: Any,
) -> Iterator[Bridged]:
    """The page of this bridge, in a fresh profile. It may write to the console what holds one of `complaints` alone.

    Chromium writes there what violates the page's policy. A script that is given runs before the page's own;
    `own_clock` is a clock that the test can stop and move.
    """
    said: list[str] = []
    context = browser.new_context(**{**DESKTOP, **options})
    context.set_default_timeout(WAIT_MILLISECONDS)
    try:
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: said.append(f"error: dialog {dialog.message}"))
        if script:
            page.add_init_script(script)
        if own_clock:
            page.clock.install()
        page.goto(bridge.url)
        yield Bridged(page)
        assert [text for text in said if not any(expected in text for expected in complaints)] == []
    finally:
        context.close()
