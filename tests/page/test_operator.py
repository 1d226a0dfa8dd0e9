"""What an operator sees: the mode, the links, the rates; in light and dark, on a phone, by keyboard, and while nobody
answers."""

import os
import re
import signal
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import PHONE, Bridged, opened
from tests.support.ports import free_port
from tests.support.process import BridgeProcess
from tests.support.process import bridge as running_bridge

WIDER_THAN_WINDOW = "document.documentElement.scrollWidth > innerWidth"
CONTRASTS = """() => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const colour = (text) => text.match(/[0-9.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = colour(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
  };
  return [...document.querySelectorAll("body *")]
    .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .filter((one) => one.checkVisibility() && !one.closest("script, style, [disabled], .unseen, .skip"))
    .map((one) => {
      const [a, b] = [luminance(colour(getComputedStyle(one).color)), luminance(behind(one))].sort((x, y) => y - x);
      return [Math.round(((a + 0.05) / (b + 0.05)) * 100) / 100, one.tagName, one.textContent];
    })
    .filter(([contrast]) => contrast < 4.5);
}"""


def test_the_mode_the_links_and_the_rates_are_shown(browser: Browser, embedded: BridgeProcess) -> None:
    with opened(browser, embedded) as shown:
        shown.mode("redis")
        page = shown.page
        assert page.inner_text("#mode-text") == "Through Redis"
        assert page.inner_text("#health") == "ok"
        assert re.match(r"since \d\d:\d\d:\d\d, \d+ s", page.inner_text("#mode-since"))
        assert "embedded servers" in page.inner_text("#identity")
        assert "through the log in Redis to" in (page.get_attribute("#map", "aria-label") or "")
        shown.until("/round trip/.test(document.querySelector('#links dd').textContent)")
        links = page.inner_text("#links")
        assert re.search(r"PostgreSQL\s+hears\s+heard [\d.]+ s ago · round trip [\d.]+ ms", links)
        assert re.search(r"Redis\s+takes writes\s+this process appends · round trip [\d.]+ ms", links)
        assert re.search(r"Log\s+feeds this process\s+heartbeat [\d.]+ s ago", links)
        assert re.search(r"Clients\s+\d+ of 10,000", page.inner_text("#load"))
        assert page.inner_text("#gaps") == "None: nothing was lost."
        assert page.locator("#switches li").first.get_attribute("data-mode") == "redis"
        assert page.locator("#strip i").last.get_attribute("data-mode") == "redis"
        assert page.locator(".chart").count() == 4
        shown.until("document.querySelector('.chart .line').getAttribute('d').includes('L')")
        assert page.title() == "redis · notify-bridge"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_in_dark(browser: Browser, embedded: BridgeProcess, scheme: str) -> None:
    with opened(browser, embedded, color_scheme=scheme) as shown:
        shown.mode("redis")
        shown.start()
        shown.wait_for_note("subscribed")
        dark = shown.page.evaluate("parseInt(getComputedStyle(document.documentElement).backgroundColor.slice(4)) < 60")
        assert dark == (scheme == "dark")
        for mode in ("redis", "direct", "none"):
            shown.page.evaluate("mode => { document.documentElement.dataset.mode = mode }", mode)
            assert shown.page.evaluate(CONTRASTS) == []


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_window(browser: Browser, embedded: BridgeProcess, options: dict[str, Any]) -> None:
    with opened(browser, embedded, **options) as shown:
        shown.mode("redis")
        shown.start()
        shown.page.fill("#send-payload", "long" * 500)
        shown.page.click("#send button")
        shown.events(1)
        shown.page.click("#events summary")
        shown.page.wait_for_selector("#events pre")
        shown.page.click("#start")
        shown.page.click("#add-condition")
        assert shown.page.evaluate(WIDER_THAN_WINDOW) is False
        for part in shown.page.locator("button:visible, select:visible, .chips span:visible").all():
            box = part.bounding_box()
            assert box is not None
            assert box["height"] >= 24, part.inner_text()


def focused(page: Page) -> str:
    """What has the focus, as its id, or its text; and that one can see it."""
    return str(
        page.evaluate(
            """() => {
              const at = document.activeElement;
              const shown = at.closest("label")?.querySelector("span") ?? at;
              const { outlineStyle, outlineWidth } = getComputedStyle(shown);
              const seen = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
              return `${at.id || at.value || at.ariaLabel || at.textContent.trim()}${seen ? "" : " (unseen)"}`;
            }"""
        )
    )


def walk(page: Page, limit: int = 60) -> list[str]:
    """What Tab leads to, from the beginning, until it leaves the page."""
    found: list[str] = []
    for _ in range(limit):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            return found
        found.append(focused(page))
    raise AssertionError(found)


def test_all_of_it_works_by_keyboard_alone(browser: Browser, embedded: BridgeProcess) -> None:
    with opened(browser, embedded) as shown:
        shown.mode("redis")
        page = shown.page
        assert walk(page) == [
            "Go to the subscription",
            *sorted(embedded.status()["channels"]),
            "add-condition",
            "start",
            "pause",
            "clear",
            "send-channel",
            "send-payload",
            "Send",
        ]
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # over everything that is only there to be read
        page.keyboard.press("Tab")
        while focused(page) != "match_change":
            page.keyboard.press("Tab")
        page.keyboard.press("Space")
        while focused(page) != "add-condition":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert focused(page) == "Field"
        page.keyboard.type("match_id")
        page.keyboard.press("Tab")
        page.keyboard.type("7")
        page.keyboard.press("Enter")
        shown.listening()
        page.focus("#send-payload")
        for number in (7, 8, 7):
            page.keyboard.press("Control+a")
            page.keyboard.type(f'{{"match_id": {number}}}')
            page.keyboard.press("Enter")
            page.wait_for_selector("#send-result[data-good=true]")
            page.evaluate("document.getElementById('send-result').dataset.good = ''")
        assert shown.events(2) == ['{"match_id": 7}', '{"match_id": 7}']
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#events details[open] pre")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        shown.until("document.querySelectorAll('#events details[open] pre').length === 2")


def test_motion_is_left_out_for_who_asks_for_that(browser: Browser, embedded: BridgeProcess) -> None:
    with opened(browser, embedded, reduced_motion="reduce") as shown:
        shown.mode("redis")
        assert shown.page.evaluate("document.getAnimations().length") == 0


def test_a_bridge_that_does_not_answer_is_said_to_be_away_until_it_does(browser: Browser) -> None:
    with running_bridge({}, "serve", "--port", "0") as bridge:
        bridge.wait_until_ready()
        with opened(browser, bridge) as shown:
            shown.mode("redis")
            os.kill(bridge.process.pid, signal.SIGSTOP)
            try:
                away(shown)
            finally:
                os.kill(bridge.process.pid, signal.SIGCONT)
            shown.page.wait_for_selector("html[data-reach=here]")
            assert shown.page.inner_text("#announcement") == "The bridge answers again."


def away(shown: Bridged) -> None:
    shown.page.wait_for_selector("html[data-reach=away]")
    assert re.match(r"No answer from the bridge since \d\d:\d\d:\d\d\.", shown.page.inner_text("#reach"))
    assert shown.page.inner_text("#announcement") == "The bridge does not answer."
    assert shown.page.inner_text("#mode-text") == "Through Redis"


def test_a_bridge_that_comes_back_on_its_port_finds_the_page_there(browser: Browser) -> None:
    port = str(free_port())
    with running_bridge({}, "serve", "--port", port, "--drain-seconds", "0") as bridge:
        bridge.wait_until_ready()
        with opened(browser, bridge, complaints=("ERR_CONNECTION", "ERR_EMPTY_RESPONSE")) as shown:
            shown.mode("redis")
            shown.start()
            assert bridge.end() == 0
            shown.page.wait_for_selector("html[data-reach=away]")
            shown.wait_for_note("reconnect")
            assert "closed with 1001 retry=" in shown.notes("reconnect")[0]
            with running_bridge({}, "serve", "--port", port) as next_bridge:
                next_bridge.wait_until_ready()
                shown.page.wait_for_selector("html[data-reach=here]")
                shown.listening()
