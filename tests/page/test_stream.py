"""How the page connects again, and what it makes of each kind of message: on sockets and under a clock of
the test."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser

from tests.support.browser import Bridged, opened
from tests.support.process import BridgeProcess

FAKE_SOCKETS = """
window.sockets = [];
window.WebSocket = class {
  static OPEN = 1;
  constructor(url, protocols) {
    Object.assign(this, { url: String(url), protocols, readyState: 0, sent: [], closed: false });
    sockets.push(this);
  }
  open() { this.readyState = 1; this.onopen({}); }
  send(text) { this.sent.push(text); }
  close() { this.closed = true; this.readyState = 3; }
  say(...messages) {
    for (const one of messages) this.onmessage({ data: typeof one === "string" ? one : JSON.stringify(one) });
  }
  end(code, reason = "") { this.readyState = 3; this.onclose({ code, reason }); }
};
"""
LOOK = """kind => {
  const row = document.querySelector(`[data-kind=${kind}]`);
  const { backgroundColor, borderLeftColor } = getComputedStyle(row.querySelector("summary") ?? row);
  return backgroundColor + borderLeftColor;
}"""
SUBSCRIBED: dict[str, Any] = {"type": "subscribed", "channels": ["a"], "where": {}, "sub": None, "position": "5-1"}


class Fake(Bridged):
    """A page whose sockets go nowhere."""

    def count(self) -> int:
        return int(self.page.evaluate("sockets.length"))

    def last(self, call: str, *arguments: Any) -> None:
        """Have the newest socket do something."""
        given = ",".join(json.dumps(argument) for argument in arguments)
        self.page.evaluate(f"sockets.at(-1).{call}({given})")

    def query(self) -> dict[str, list[str]]:
        """What the newest socket asks for."""
        return parse_qs(urlsplit(self.page.evaluate("sockets.at(-1).url")).query)

    def welcome(self) -> None:
        self.last("open")
        self.last("say", SUBSCRIBED)

    def wait_seconds(self) -> float:
        """How long the page says that it waits, since it last lost its socket."""
        self.page.clock.run_for(200)
        found = re.search(r"trying again in ([\d.]+) s", self.notes("reconnect")[-1])
        assert found is not None
        return float(found[1])


@pytest.fixture
def shown(browser: Browser, embedded: BridgeProcess) -> Iterator[Fake]:
    """A page that has just begun to connect. Time stands still but for what a test lets go by."""
    with opened(browser, embedded, script=FAKE_SOCKETS, own_clock=True) as bridged:
        bridged.mode("redis")
        bridged.page.clock.pause_at(bridged.page.evaluate("Date.now() + 20_000"))
        bridged.page.click("#start")
        yield Fake(bridged.page)


def notification(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "notification", "id": f"5-{number}", "channel": "a", "payload": {"n": number}, **more}


@pytest.mark.parametrize(
    ("messages", "after"),
    [
        ([], "5-1"),
        ([notification(2), notification(3)], "5-3"),
        ([notification(2), notification(1, late=True, cursor="c1")], "c1"),
        ([notification(2), {**notification(9), "id": None}], "5-2"),
        (
            [notification(2), {"type": "gap", "after": "5-2", "before": None, "reason": "failover", "cursor": "c2"}],
            "c2",
        ),
        ([notification(2), {"type": "filled", "after": "5-2", "before": "5-3", "cursor": "c3"}], "c3"),
        ([notification(2), {"type": "position", "cursor": "c4"}], "c4"),
        ([notification(2), {"type": "error", "code": "bad_message", "message": "what?"}], "5-2"),
    ],
)
def test_it_goes_on_after_the_last_message(shown: Fake, messages: list[dict[str, Any]], after: str) -> None:
    assert "after" not in shown.query()
    shown.welcome()
    shown.last("say", *messages)
    shown.last("end", 1006)
    shown.page.clock.run_for(600)
    assert shown.count() == 2
    assert shown.query()["after"] == [after]


@pytest.mark.parametrize("code", [1001, 4013])
def test_it_stays_away_as_long_as_it_is_asked_to(shown: Fake, code: int) -> None:
    shown.welcome()
    shown.last("end", code, "retry=7")
    assert 7.0 <= shown.wait_seconds() <= 7.5
    shown.page.clock.run_for(6_700)
    assert shown.count() == 1
    shown.page.clock.run_for(700)
    assert shown.count() == 2


@pytest.mark.parametrize("code", [1006, 1001, 1011, 4008])
def test_else_it_waits_longer_each_time_and_not_as_long_as_others(shown: Fake, code: int) -> None:
    ceiling, waits = 0.5, []
    for attempt in range(7):
        shown.welcome()
        shown.last("end", code)
        waits.append(shown.wait_seconds())
        assert ceiling / 2 - 0.06 <= waits[-1] <= ceiling + 0.06
        shown.page.clock.run_for(15_000)
        assert shown.count() == attempt + 2
        ceiling = min(15.0, ceiling * 2)
    assert any(abs(wait / 0.5 / 2**attempt - 1) > 0.01 for attempt, wait in enumerate(waits[:5]))
    shown.welcome()
    shown.page.clock.run_for(11_000)
    shown.last("end", code)
    assert shown.wait_seconds() <= 0.5


@pytest.mark.parametrize(("code", "why"), [(4001, "give a new one"), (1008, "refuses to go on")])
def test_some_ends_are_final(shown: Fake, code: int, why: str) -> None:
    shown.welcome()
    shown.last("end", code, "because")
    shown.page.clock.run_for(60_000)
    assert shown.count() == 1
    assert why in shown.page.inner_text("#stream-text")
    assert "because" in shown.notes("stopped")[0]


def test_a_silent_connection_is_asked_and_then_given_up(shown: Fake) -> None:
    shown.welcome()
    shown.page.clock.run_for(27_000)
    assert shown.page.evaluate("sockets[0].sent") == ['{"type":"ping"}']
    shown.last("say", {"type": "pong", "cursor": "c9"})
    shown.page.clock.run_for(27_000)
    assert len(shown.page.evaluate("sockets[0].sent")) == 2
    shown.page.clock.run_for(12_000)
    assert shown.page.evaluate("[sockets[0].closed, sockets.length]") == [True, 2]
    assert shown.query()["after"] == ["c9"]


def test_stopped_it_stays_stopped(shown: Fake) -> None:
    shown.welcome()
    shown.last("end", 1006)
    shown.page.click("#start")
    shown.page.clock.run_for(60_000)
    assert shown.count() == 1
    shown.page.click("#start")
    assert shown.count() == 2
    assert "after" not in shown.query()


def test_every_kind_of_message_is_told_apart(shown: Fake) -> None:
    shown.welcome()
    between = {"after": "5-2", "before": "5-9", "cursor": "c"}
    shown.last(
        "say",
        notification(2),
        {"type": "gap", "reason": "failover", "pending": True, **between},
        notification(4, late=True, cursor="c"),
        {"type": "filled", **between},
        {"type": "gap", "reason": "slow_client", **between},
        {"type": "position", "cursor": "c"},
        {"type": "error", "code": "bad_message", "message": "what?"},
        {"type": "something_new", "x": 1},
    )
    shown.page.clock.run_for(1_200)
    found = [row.get_attribute("data-kind") for row in shown.rows.all()][::-1]
    kinds = ["subscribed", "notification", "pending", "late", "filled", "gap", "position", "error", "something_new"]
    assert found == kinds
    assert "slow_client" in shown.notes("gap")[0]
    counts = shown.page.inner_text("#tally").split()
    assert counts[:2] + counts[3:7] == ["2", "events", "1", "late", "1", "gap"]
    looks = {
        kind: shown.page.evaluate(LOOK, kind) for kind in ("notification", "late", "pending", "filled", "gap", "error")
    }
    assert len(set(looks.values())) == len(looks), looks


def test_a_flood_is_counted_and_shown_in_part(shown: Fake) -> None:
    shown.welcome()
    sent = shown.page.evaluate(
        """(count) => {
          for (let n = 2; n < count + 2; n += 1)
            sockets[0].say(`{"type":"notification","id":"5-${n}","channel":"a","payload":{"n":${n}}}`);
          return count;
        }""",
        30_000,
    )
    shown.page.clock.run_for(1_200)
    assert shown.page.inner_text("#count-events") == f"{sent:,}"
    assert shown.rows.count() == 200
    assert shown.rows.first.locator("code").inner_text() == f'{{"n":{sent + 1}}}'
    shown.last("end", 1006)
    shown.page.clock.run_for(600)
    assert shown.query()["after"] == [f"5-{sent + 1}"]


def test_a_payload_of_a_megabyte_is_shown_in_part(shown: Fake) -> None:
    shown.welcome()
    for payload in (
        '"X".repeat(1e6)',
        '{ big: "X".repeat(1e6), list: Array(1e5).fill([1]) }',
        'Array(3e5).fill({ "a": [] })',
    ):
        shown.page.evaluate(f'sockets[0].say({{ type: "notification", id: "5-7", channel: "a", payload: {payload} }})')
        shown.page.clock.run_for(400)
        summary = shown.page.locator("#events summary").first
        summary.click()
        shown.until("document.querySelector('#events pre') !== null")
        assert len(summary.inner_text()) < 600
        assert 60_000 < len(shown.page.locator("#events pre").first.text_content() or "") < 400_000
    assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_numbers_and_strings_stay_as_they_were_written(shown: Fake) -> None:
    shown.welcome()
    payload = r'{"payload":[1.0,12345678901234567890,{}],",\"late\":true":"\u0041 \"{[,:]}\" ","empty":[ ]}'
    shown.last(
        "say", f'{{"type":"notification","id":"5-2","channel":"a","payload":{payload},"late":true,"cursor":"c"}}'
    )
    shown.page.clock.run_for(400)
    assert shown.page.locator("#events code").inner_text() == payload
    shown.page.click("#events summary")
    shown.until("document.querySelector('#events pre') !== null")
    text = shown.page.locator("#events pre").text_content() or ""
    assert text.splitlines() == [
        "{",
        '  "payload": [',
        "    1.0,",
        "    12345678901234567890,",
        "    {}",
        "  ],",
        r'  ",\"late\":true": "\u0041 \"{[,:]}\" ",',
        '  "empty": [ ]',
        "}",
    ]


def test_a_token_goes_into_the_subprotocols_and_not_into_the_url(browser: Browser, embedded: BridgeProcess) -> None:
    with opened(browser, embedded, script=FAKE_SOCKETS) as bridged:
        bridged.mode("redis")
        bridged.page.evaluate("() => { document.getElementById('token').value = 'aa.bb.cc' }")
        bridged.page.click("#start")
        url, protocols = bridged.page.evaluate("[sockets[0].url, sockets[0].protocols]")
        assert (urlsplit(url).path, urlsplit(url).query) == ("/ws", "")
        assert protocols == ["bridge.v1", "bearer.aa.bb.cc"]
