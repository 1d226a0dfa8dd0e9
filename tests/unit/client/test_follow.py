"""When a client comes back, with which token, how it notices a dead bridge, and what a slow consumer does. On a clock
that does not run by itself."""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import CloseConnection, Ping, Pong

from bridge.client.session import ALIVE_SECONDS, CONNECT_SECONDS, IDLE_SECONDS, PONG_SECONDS
from bridge.client.token import TOKEN_SECONDS
from bridge.client.verdict import LONGEST_RETRY_SECONDS
from bridge.errors import BridgeError, SettingsError
from tests.support.scripted_bridge import Handler, Peer, Reset, ScriptedBridge, in_memory, notification, subscribed
from tests.unit.client.following import RETRY_SECONDS, following

DAY_SECONDS = 86400.0
CONNECTED = "connecting", "connected"


def saying(*texts: str) -> Handler:
    """Take the client, say this, and stay."""

    async def handle(peer: Peer) -> None:
        await peer.accept(*texts)
        while True:
            await peer.hear(DAY_SECONDS)

    return handle


def closing(code: int, reason: str = "", *texts: str, after_seconds: float = 0.0) -> Handler:
    async def handle(peer: Peer) -> None:
        await peer.accept(*texts)
        await trio.sleep(after_seconds)
        await peer.close(code, reason)

    return handle


def refusing(status: int, body: bytes = b"", **headers: str) -> Handler:
    async def handle(peer: Peer) -> None:
        await peer.reject(status, body, **headers)

    return handle


async def resetting(peer: Peer) -> None:
    await peer.accept()
    raise Reset


def gaps(bridge: ScriptedBridge) -> list[float]:
    """Seconds between attempts."""
    times = bridge.opened_at
    return [later - earlier for earlier, later in pairwise(times)]


async def test_an_unreachable_bridge_is_tried_again_and_again_ever_more_slowly(autojump_clock: MockClock) -> None:
    async with in_memory() as bridge, following(bridge) as here:
        await trio.sleep(60)
        seconds = gaps(bridge)
        assert seconds[0] <= 0.1
        assert all(first <= RETRY_SECONDS for first in seconds)
        assert all(last >= RETRY_SECONDS / 2 for last in seconds[7:])
        assert len({round(last, 6) for last in seconds[7:]}) > 3, "there is no jitter"
        assert [state.state for state in here.states[:3]] == ["connecting", "waiting", "connecting"]
        assert here.waits[0].reason == "[Errno 111] Connection refused"
        assert here.waits[0].delay_seconds == pytest.approx(seconds[0])


async def test_a_spell_of_health_makes_the_next_delay_short_again(autojump_clock: MockClock) -> None:
    short, long = [closing(1000)] * 10, closing(1000, after_seconds=6)
    async with in_memory(*short, long, *short[:2]) as bridge, following(bridge):
        await trio.sleep(60)
        seconds = gaps(bridge)
        assert all(RETRY_SECONDS / 2 <= last <= RETRY_SECONDS for last in seconds[7:10])
        assert 6 <= seconds[10] <= 6.1
        assert seconds[11] <= 0.2


async def test_a_connection_that_never_stands_is_no_health(autojump_clock: MockClock) -> None:
    async def silent(peer: Peer) -> None:
        await peer.stay()

    async with in_memory(*[silent] * 20) as bridge, following(bridge) as here:
        await trio.sleep(150)
        assert here.waits[0].reason == "no answer in time"
        assert here.waits[9].delay_seconds >= RETRY_SECONDS / 2
        assert CONNECT_SECONDS < gaps(bridge)[0] <= CONNECT_SECONDS + 0.1


@pytest.mark.parametrize("code", [1001, 4013])
async def test_a_bridge_says_when_to_come_back(code: int, autojump_clock: MockClock) -> None:
    handlers = [closing(code, "retry=7"), closing(code, "retry=1000"), saying(subscribed())]
    async with in_memory(*handlers) as bridge, following(bridge) as here:
        await here.client.__anext__()
        first, second = gaps(bridge)
        assert 7 <= first < 8
        assert LONGEST_RETRY_SECONDS <= second < LONGEST_RETRY_SECONDS + 1


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(status: int, autojump_clock: MockClock) -> None:
    handlers = [refusing(status, Retry_After="7"), saying(subscribed())]
    async with in_memory(*handlers) as bridge, following(bridge) as here:
        await here.client.__anext__()
        assert 7 <= gaps(bridge)[0] < 8
        assert here.waits[0].reason == f"HTTP {status}: no reason given"


async def test_those_who_are_sent_away_together_come_back_apart(autojump_clock: MockClock) -> None:
    delays = set()
    for _ in range(5):
        async with in_memory(closing(1001, "retry=2"), saying(subscribed())) as bridge, following(bridge) as here:
            await here.client.__anext__()
            delays.add(round(here.waits[0].delay_seconds, 3))
    assert max(delays) - min(delays) > 0.02


async def test_it_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    handlers = [
        closing(4008, "resume with after", subscribed("1-0"), notification(1), notification(2)),
        saying(subscribed("1-2"), notification(3)),
    ]
    async with in_memory(*handlers) as bridge, following(bridge) as here:
        assert await here.numbers(3) == [1, 2, 3]
        assert [peer.target for peer in bridge.peers] == ["/ws", "/ws?after=1-2"]
        assert here.client.cursor == "1-3"
        assert [state.state for state in here.states] == [*CONNECTED, "waiting", *CONNECTED]


async def test_a_position_moves_the_cursor_and_is_no_event(autojump_clock: MockClock) -> None:
    handlers = [
        closing(1000, "", subscribed("1-0"), '{"type":"position","cursor":"1-5"}'),
        saying(subscribed("1-5"), '{"type":"pong","cursor":"1-6"}', notification(7)),
    ]
    async with in_memory(*handlers) as bridge, following(bridge) as here:
        assert await here.number() == 7
        assert bridge.peers[1].target == "/ws?after=1-5"


async def test_silence_is_asked_about_and_a_dead_bridge_is_left(autojump_clock: MockClock) -> None:
    pings: list[object] = []

    async def dies(peer: Peer) -> None:
        await peer.accept(subscribed())
        pings.extend([await peer.hear(100), await peer.hear(100)])  # which answers
        await peer.stay()

    async with in_memory(dies, saying(notification(1))) as bridge, following(bridge) as here:
        began = trio.current_time()
        assert await here.number() == 1
        assert pings == [Ping(payload=b"")] * 2
        assert here.waits[0].reason == "no answer in time"
        assert bridge.opened_at[1] - began == pytest.approx(3 * IDLE_SECONDS + PONG_SECONDS, abs=0.2)


async def test_a_bridge_that_talks_is_not_asked(autojump_clock: MockClock) -> None:
    async def talks(peer: Peer) -> None:
        await peer.accept(subscribed())
        for number in range(1, 8):
            await trio.sleep(IDLE_SECONDS - 1)
            await peer.say(notification(number))
        with pytest.raises(TimeoutError):
            await peer.hear(1)

    async with in_memory(talks) as bridge, following(bridge) as here:
        assert await here.numbers(7) == list(range(1, 8))
        await trio.sleep(2)
        assert len(bridge.peers) == 1


async def test_a_slow_consumer_holds_back_the_bridge_and_shows_life(autojump_clock: MockClock) -> None:
    heard: list[object] = []
    sent = [notification(number) for number in range(1, 1001)]

    async def talks(peer: Peer) -> None:
        await peer.accept(subscribed())
        for text in sent:  # each comes by itself
            await peer.say(text)
        while True:
            heard.append(await peer.hear(DAY_SECONDS))

    async with in_memory(talks) as bridge, following(bridge, buffer_bytes=3000) as here:
        await trio.sleep(10 * ALIVE_SECONDS + 1)
        assert here.client.cursor is None
        received = here.follower.buffer.received
        assert received is not None
        assert 3 <= int(received.removeprefix("1-")) <= 12
        assert heard == [Pong(payload=b"")] * 10
        assert await here.numbers(1000) == list(range(1, 1001))
        assert len(bridge.peers) == 1


async def test_while_there_is_no_room_there_is_no_new_connection(autojump_clock: MockClock) -> None:
    async def gives_up(peer: Peer) -> None:
        await peer.accept(subscribed(), *map(notification, range(1, 30)))
        await trio.sleep(60)
        raise Reset

    handlers = [gives_up, saying(subscribed("1-29"), notification(30))]
    async with in_memory(*handlers) as bridge, following(bridge, buffer_bytes=3000) as here:
        await trio.sleep(1000)
        assert len(bridge.opened_at) == 1
        assert await here.numbers(30) == list(range(1, 31))


Token = Callable[[], str | Awaitable[str]]


def fresh_tokens(is_async: bool) -> Token:
    count = 0

    def make() -> str:
        nonlocal count
        count += 1
        return f"token{count}"

    async def make_slowly() -> str:
        await trio.sleep(1)
        return make()

    return make_slowly if is_async else make


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_fresh_token_is_asked_for_when_one_has_expired(is_async: bool, autojump_clock: MockClock) -> None:
    handlers = [
        closing(4001, "the token has expired", subscribed("1-0"), notification(1)),
        resetting,
        refusing(401),
        closing(4001, "the token has expired", subscribed("1-1"), notification(2)),
        saying(subscribed("1-2"), notification(3)),
    ]
    async with in_memory(*handlers) as bridge, following(bridge, token=fresh_tokens(is_async)) as here:
        assert await here.numbers(3) == [1, 2, 3]
        shown = [peer.headers["authorization"].removeprefix("Bearer token") for peer in bridge.peers]
        assert shown == ["1", "2", "2", "3", "4"]


async def test_a_fresh_token_that_is_refused_too_is_the_end(autojump_clock: MockClock) -> None:
    handlers = [refusing(401, b"the token has expired"), refusing(401, b"a token is needed"), saying(subscribed())]
    async with in_memory(*handlers) as bridge, following(bridge, token=fresh_tokens(False)) as here:
        with pytest.raises(BridgeError, match=r"^The bridge refused with HTTP 401: a token is needed$"):
            await here.client.__anext__()
        assert len(bridge.peers) == 2


@pytest.mark.parametrize("token", [None, "token1"])
async def test_without_a_fresh_token_an_expired_one_is_the_end(token: str | None, autojump_clock: MockClock) -> None:
    handlers = [closing(4001, "the token has expired", subscribed(), notification(1)), saying(subscribed())]
    async with in_memory(*handlers) as bridge, following(bridge, token=token) as here:
        assert await here.number() == 1
        for _ in range(2):
            with pytest.raises(BridgeError, match="closed with 4001 the token has expired; give as `token` a function"):
                await here.client.__anext__()
        await trio.sleep(100)
        assert len(bridge.peers) == 1


async def test_a_token_that_does_not_come_is_waited_for_a_bounded_time(autojump_clock: MockClock) -> None:
    answers = [trio.sleep_forever, trio.sleep_forever]

    async def make() -> str:
        if answers:
            await answers.pop()()
        return "x"

    async with in_memory(saying(subscribed())) as bridge, following(bridge, token=make) as here:
        await here.client.__anext__()
        assert [wait.reason for wait in here.waits] == [
            f"the function for a token gave none within {TOKEN_SECONDS:g} s"
        ] * 2
        assert len(bridge.peers) == 1


async def test_what_the_users_functions_raise_comes_to_the_consumer(autojump_clock: MockClock) -> None:
    def fails(*_: object) -> str:
        raise ZeroDivisionError("the user's own")

    for options in ({"token": fails}, {"on_state": fails}):
        async with in_memory(saying(subscribed())) as bridge, following(bridge, **options) as here:
            with pytest.raises(ZeroDivisionError, match="the user's own"):
                await here.client.__anext__()


async def test_a_token_that_is_said_back_is_not_shown(autojump_clock: MockClock) -> None:
    handlers = [refusing(503, b"busy, t0p and inTheUrl"), closing(1011, "t0p"), refusing(403, b"not for t0p")]
    async with in_memory(*handlers) as bridge:
        bridge.url += "?token=inTheUrl"
        async with following(bridge, token="t0p") as here:
            with pytest.raises(BridgeError, match=r"HTTP 403: not for \*\*\*"):
                await here.client.__anext__()
            reasons = [wait.reason for wait in here.waits]
            assert reasons == ["HTTP 503: busy, *** and ***", "closed with 1011 ***"]


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "ü"])
async def test_a_token_that_cannot_be_sent_is_refused(token: str, autojump_clock: MockClock) -> None:
    async with in_memory(saying(subscribed())) as bridge:
        with pytest.raises(SettingsError, match="token: it cannot be sent") as refused:
            async with following(bridge, token=token):
                pass
        assert not token or token not in str(refused.value)
        async with following(bridge, token=lambda: token) as here:
            with pytest.raises(SettingsError, match="token: it cannot be sent"):
                await here.client.__anext__()
        async with following(bridge, token=lambda: None) as here:
            with pytest.raises(SettingsError, match="token: a string is expected, not NoneType"):
                await here.client.__anext__()
        assert bridge.peers == []


@pytest.mark.parametrize(
    ("handler", "kind", "text"),
    [
        (refusing(400, b"unknown channel 'x'"), SettingsError, "The bridge refused with HTTP 400: unknown channel 'x'"),
        (refusing(404), SettingsError, "HTTP 404"),
        (refusing(403, b"no"), BridgeError, "HTTP 403: no"),
        (closing(1008, "too much"), BridgeError, "closed with 1008 too much"),
        (saying("x" * 2_000_000), BridgeError, "a message of more than 1048576 bytes"),
        (saying('{"type":"notification"}'), BridgeError, "no message of its protocol"),
    ],
)
async def test_a_refusal_that_would_be_repeated_is_the_end(
    handler: Handler, kind: type[BridgeError], text: str, autojump_clock: MockClock
) -> None:
    async with in_memory(handler, saying(subscribed())) as bridge, following(bridge) as here:
        with pytest.raises(kind) as refused:
            await here.client.__anext__()
        assert type(refused.value) is kind
        assert text in str(refused.value)
        assert len(bridge.peers) == 1


async def test_leaving_says_goodbye_and_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    goodbyes: list[CloseConnection] = []

    async def polite(peer: Peer) -> None:
        await peer.accept(subscribed())
        goodbyes.append(await peer.hear_close())

    async def deaf(peer: Peer) -> None:
        await peer.accept(subscribed())
        await peer.stay()

    for handler, at_most in ((polite, 0.0), (deaf, 1.0)):
        async with in_memory(handler) as bridge:
            async with following(bridge) as here:
                await here.client.__anext__()
                left = trio.current_time()
            assert trio.current_time() - left == pytest.approx(at_most)
    assert goodbyes == [CloseConnection(code=1000, reason="")]
