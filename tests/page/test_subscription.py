"""A subscription that somebody tries on the page: what is notified appears once, as text, and only
what was asked for."""

import json
import re

import psycopg
from playwright.sync_api import Browser

from tests.support.browser import Bridged, opened
from tests.support.process import BridgeProcess
from tests.support.process import bridge as running_bridge
from tests.support.tokens import SECRET, token

NASTY = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "</code></summary></details><h1>mine</h1>",
    "{{constructor.constructor('alert(1)')()}}",
    "‮gnp.exe \u0007 \u2028 \x1b[31m",
]


def notify(bridge: BridgeProcess, *payloads: str, channel: str = "match_change") -> None:
    """Send them by a session with the embedded database."""
    found = re.search(r"Embedded PostgreSQL: (\S+)", bridge.log())
    assert found is not None
    with psycopg.connect(found[1], autocommit=True) as connection:
        for payload in payloads:
            connection.execute("SELECT pg_notify(%s, %s)", (channel, payload))


def test_events_appear_once_and_in_order_the_newest_first(browser: Browser, embedded: BridgeProcess) -> None:
    with opened(browser, embedded) as shown:
        shown.mode("redis")
        shown.start()
        payloads = [json.dumps({"n": n}) for n in range(100)]
        notify(embedded, *payloads)
        assert shown.events(100) == payloads
        ids = shown.page.evaluate("[...document.querySelectorAll('#events [data-id]')].map(row => row.dataset.id)")
        assert len(set(ids)) == 100
        (subscribed,) = shown.notes("subscribed")
        assert "match_change" in subscribed
        assert shown.page.inner_text("#stream-text") == "Listening"


def test_what_is_sent_from_the_page_comes_back_by_its_subscription(browser: Browser, embedded: BridgeProcess) -> None:
    with opened(browser, embedded, complaints=("status of 413",)) as shown:
        shown.mode("redis")
        shown.page.click("#send button")
        shown.page.wait_for_selector("#send-result >> text=Start listening")
        assert shown.rows.count() == 0
        shown.start()
        shown.page.select_option("#send-channel", "scoreboard_change")
        for payload in ('{"a": [1, 2.50, 12345678901234567890]}', "plain text", ""):
            shown.page.fill("#send-payload", payload)
            with shown.page.expect_response("**/notify") as answer:
                shown.page.click("#send button")
            assert answer.value.status == 200
        assert shown.events(3) == ['{"a": [1, 2.50, 12345678901234567890]}', "plain text", ""]
        assert set(shown.page.locator("#events summary b").all_inner_texts()) == {"scoreboard_change"}
        shown.page.locator("#events summary").last.click()
        pretty = shown.page.text_content("#events pre")
        assert pretty == '{\n  "a": [\n    1,\n    2.50,\n    12345678901234567890\n  ]\n}'
        shown.page.fill("#send-payload", "x" * 8000)
        shown.page.click("#send button")
        shown.page.wait_for_selector("#send-result[data-good=false]")
        assert "7,999" in shown.page.inner_text("#send-result")


def test_payloads_stay_text(browser: Browser, embedded: BridgeProcess) -> None:
    with opened(browser, embedded) as shown:
        shown.mode("redis")
        shown.start()
        before = shown.page.evaluate("document.querySelectorAll('img, script, h1, svg, iframe').length")
        notify(embedded, *NASTY, *(json.dumps({text: [text]}) for text in NASTY))
        shown.events(2 * len(NASTY))
        for summary in shown.page.locator("#events summary").all():
            summary.click()
        shown.until(f"document.querySelectorAll('#events pre').length === {2 * len(NASTY)}")
        texts = shown.page.evaluate("[...document.querySelectorAll('#events pre')].map(pre => pre.textContent)")
        assert texts[::-1][: len(NASTY)] == NASTY
        assert [json.loads(text) for text in texts[::-1][len(NASTY) :]] == [{text: [text]} for text in NASTY]
        assert shown.page.evaluate("document.querySelectorAll('img, script, h1, svg, iframe').length") == before


def test_channels_and_conditions_choose(browser: Browser, embedded: BridgeProcess) -> None:
    with opened(browser, embedded) as shown:
        shown.mode("redis")
        shown.page.check("input[value=match_change]")
        shown.page.click("#add-condition")
        shown.page.fill(".condition input >> nth=0", "match_id")
        shown.page.fill(".condition input >> nth=1", "7")
        shown.start()
        notify(embedded, '{"match_id": 7}', channel="scoreboard_change")
        notify(embedded, '{"match_id": 8}', '{"match_id": 7, "last": true}')
        assert shown.events(1) == ['{"match_id": 7, "last": true}']
        assert shown.notes("subscribed")[0].startswith("match_change where match_id=7;")
        assert shown.page.is_disabled("input[value=match_change]")
        shown.page.click("#start")
        shown.page.wait_for_selector("#stream-state[data-state=stopped]")
        shown.page.uncheck("input[value=match_change]")
        shown.page.click("text=Remove")
        shown.page.click("#clear")  # an old row would count as the new one, which is shown a moment after it is counted
        shown.start()
        notify(embedded, '{"match_id": 9}')
        assert shown.events(1) == ['{"match_id": 9}']


def test_paused_it_counts_and_shows_later_and_cleared_it_is_empty(browser: Browser, embedded: BridgeProcess) -> None:
    with opened(browser, embedded) as shown:
        shown.mode("redis")
        shown.start()
        shown.wait_for_note("subscribed")
        shown.page.click("#pause")
        assert shown.page.get_attribute("#pause", "aria-pressed") == "true"
        notify(embedded, *(f"{n}" for n in range(20)))
        shown.until("document.getElementById('count-held').textContent === '20'")
        assert shown.page.locator("#events code").count() == 0
        shown.page.click("#pause")
        assert shown.events(20) == [f"{n}" for n in range(20)]
        shown.page.click("#clear")
        assert shown.rows.count() == 0
        assert shown.page.is_visible("#events-empty")


def test_with_authentication_the_page_says_what_is_wrong_with_a_token(browser: Browser) -> None:
    settings = {"BRIDGE_JWT_KEY": SECRET}
    complaints = ("WebSocket connection to", "status of 401", "status of 403")
    with running_bridge(settings, "serve", "--port", "0") as bridge:
        bridge.wait_until_ready()
        with opened(browser, bridge, complaints=complaints) as shown:
            shown.mode("redis")
            assert shown.page.get_attribute("#token", "type") == "password"
            refused(shown, "", "refused with 401: a token is needed")
            refused(shown, "nonsense", "refused with 401: the token is no signed JWT")
            refused(shown, "not a token", "this is no token")
            narrow = token({"channels": ["scoreboard_change"], "where": {"match_id": 7}})
            shown.page.check("input[value=match_change]")
            refused(shown, narrow, "refused with 403")
            shown.page.uncheck("input[value=match_change]")
            shown.page.fill("#token", narrow)
            shown.start()
            shown.wait_for_note("subscribed")
            shown.page.fill("#send-payload", '{"match_id": 7}')
            shown.page.select_option("#send-channel", "match_change")
            shown.page.click("#send button")
            shown.page.wait_for_selector("#send-result[data-good=false]")
            shown.page.select_option("#send-channel", "scoreboard_change")
            shown.page.click("#send button")
            shown.page.wait_for_selector("#send-result[data-good=true]")
            assert shown.events(1) == ['{"match_id": 7}']
            assert narrow not in bridge.log()


def refused(shown: Bridged, given: str, why: str) -> None:
    """Start with this token; the page says why not, and does not try again."""
    shown.page.fill("#token", given)
    shown.page.click("#start")
    shown.page.wait_for_selector(f"#stream-text >> text={why}")
    assert shown.page.inner_text("#start") == "Start"
    assert shown.page.get_attribute("#stream-state", "data-state") == "stopped"
