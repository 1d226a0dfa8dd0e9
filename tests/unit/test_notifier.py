"""Callbacks of the notifier: in order, each on its own, and always an end. The feed is one that the test plays."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest

import bridge
from bridge import notifier as notifier_module
from bridge.core.position import Position
from bridge.errors import RedisLost, SettingsError
from bridge.links.shared_log import SharedLog
from bridge.notifier import RedisNotifierService, init_redis_notifier
from bridge.stream import Event, Filled, Gap, ModeChange, Notification, Subscribed
from tests.support.loops import LOOPS, Loop, run_on
from tests.support.redis import free_port

pytestmark = pytest.mark.parametrize("loop", LOOPS)

NOWHERE = "redis://127.0.0.1:1"


@dataclass
class FakeSubscription:
    events: list[Event]
    cursor: str | None
    _closed: bool = False
    _news: anyio.Event = field(default_factory=anyio.Event)

    def __aiter__(self) -> "FakeSubscription":
        return self

    async def __anext__(self) -> Event:
        await anyio.lowlevel.checkpoint()
        while not self.events and not self._closed:
            self._news = anyio.Event()
            await self._news.wait()
        if self._closed:
            raise StopAsyncIteration
        event = self.events.pop(0)
        self.cursor = getattr(event, "cursor", None) or self.cursor
        return event

    def close(self) -> None:
        self._closed = True
        self._news.set()

    def say(self, *events: Event) -> None:
        self.events += events
        self._news.set()


@dataclass
class FakeFeed:
    """What `open_feed` gives, and what it was asked for. The log that it plays holds `events`."""

    events: list[Event] = field(default_factory=list)
    asked: list[tuple[tuple[str, ...], str | None]] = field(default_factory=list)
    mode: str = "redis"
    subscription: FakeSubscription | None = None

    @contextmanager
    def subscribe(self, *channels: str, after: str | None = None) -> Iterator[FakeSubscription]:
        self.asked.append((channels, after))
        self.subscription = FakeSubscription(self.after(after), after)
        yield self.subscription

    def after(self, cursor: str | None) -> list[Event]:
        for index, event in enumerate(self.events):
            if isinstance(event, Notification) and event.cursor == cursor:
                return self.events[index + 1 :]
        return list(self.events)

    def say(self, *events: Event) -> None:
        assert self.subscription is not None
        self.subscription.say(*events)


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> FakeFeed:
    made = FakeFeed()

    @asynccontextmanager
    async def open_feed(*_: object, **__: object) -> AsyncIterator[FakeFeed]:
        async with anyio.create_task_group():  # as the real one, which wraps what passes through it
            yield made

    monkeypatch.setattr(notifier_module, "open_feed", open_feed)
    return made


@pytest.fixture
def service(feed: FakeFeed) -> RedisNotifierService:
    return RedisNotifierService(NOWHERE, channels=("a", "b"))


def event(number: int, channel: str = "a") -> Notification:
    return Notification(f"1-{number}", channel, b'{"n":[%d]}' % number, cursor=f"1-{number}")


Main = Callable[[], Coroutine[Any, Any, object]]


async def listen(service: RedisNotifierService, meanwhile: Main = anyio.wait_all_tasks_blocked) -> None:
    """Run its loop until this has ended: else until there is nothing more to do."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.listen_loop)
        await anyio.wait_all_tasks_blocked()
        await meanwhile()
        tasks.cancel_scope.cancel()


def test_callbacks_are_called_in_order_each_with_a_payload_of_its_own(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService
) -> None:
    called: list[tuple[int, str, Any]] = []

    def first(channel: str, payload: Any) -> None:
        called.append((1, channel, payload))
        payload["n"].append("spoilt")

    async def second(channel: str, payload: Any) -> None:
        await anyio.lowlevel.checkpoint()
        called.append((2, channel, payload))

    async def main() -> None:
        service.register_callback("a", first)
        service.register_callback("a", second)
        service.register_callback("b", second)
        feed.events = [Subscribed(("a", "b"), {}), event(1), event(2, "b"), ModeChange("direct"), event(3)]

        async def look() -> None:
            service.unregister_callback("a", first)
            service.unregister_callback("a", first)
            service.unregister_callback("b", print)
            feed.say(event(4))
            await anyio.wait_all_tasks_blocked()

        await listen(service, look)

    run_on(loop, main)
    assert called[0] == (1, "a", {"n": [1, "spoilt"]})
    assert called[1:3] == [(2, "a", {"n": [1]}), (2, "b", {"n": [2]})]
    assert [(who, payload["n"][0]) for who, _, payload in called[3:]] == [(1, 3), (2, 3), (2, 4)]


def test_a_callback_that_fails_stops_nothing(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[int] = []

    def fail(channel: str, payload: Any) -> NoReturn:
        raise LookupError("sync")

    async def fail_later(channel: str, payload: Any) -> NoReturn:
        await anyio.lowlevel.checkpoint()
        raise TimeoutError("async")

    async def main() -> None:
        for callback in (fail, fail_later, lambda _, payload: called.append(payload["n"][0])):
            service.register_callback("a", callback)
        service.register_gap_callback(lambda _: fail("", 0))
        feed.events = [event(1), Gap("1-1", "1-2", "failover"), event(2)]
        await listen(service)

    run_on(loop, main)
    assert called == [1, 2]
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 5
    assert all(record.exc_info for record in lines)
    assert "fail_later" in lines[1].getMessage()


def test_a_final_gap_is_told_or_a_warning(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, caplog: pytest.LogCaptureFixture
) -> None:
    final, told = Gap("1-1", "1-3", "history_trimmed"), list[Gap]()

    async def tell(gap: Gap) -> None:
        told.append(gap)

    async def main() -> None:
        feed.events = [Gap("1-0", "1-1", "failover", pending=True), Filled("1-0", "1-1"), final]
        await listen(service)
        service.register_gap_callback(tell)
        await listen(service)

    run_on(loop, main)
    (warning,) = caplog.messages
    assert "history_trimmed" in warning
    assert told == [final]


def test_the_loop_goes_on_where_its_callbacks_were(loop: Loop, feed: FakeFeed, service: RedisNotifierService) -> None:
    called: list[int] = []
    stuck = True

    async def stall(_: str, payload: Any) -> None:
        called.append(payload["n"][0])
        if payload["n"] == [2] and stuck:
            await anyio.sleep_forever()

    async def main() -> None:
        nonlocal stuck
        service.register_callback("a", stall)
        feed.events = [event(1), event(2), event(3)]
        await listen(service)
        stuck = False
        await listen(service)

    run_on(loop, main)
    assert called == [1, 2, 2, 3]
    assert feed.asked == [((), None), ((), "1-1")]


def test_the_loop_goes_on_where_a_quiet_stream_stood(loop: Loop, feed: FakeFeed, service: RedisNotifierService) -> None:
    """A position is told without an event. While a callback runs it says nothing of what that has done."""

    async def position_is_told(cursor: str) -> None:
        assert feed.subscription is not None
        feed.subscription.cursor = cursor

    async def main() -> None:
        feed.events = [event(1)]
        await listen(service, partial(position_is_told, "1-7"))
        service.register_callback("a", lambda *_: anyio.sleep_forever())
        await listen(service)
        await listen(service)

    run_on(loop, main)
    assert [after for _, after in feed.asked] == [None, "1-7", "1-7"]


class Tails:
    """Plays `SharedLog.tail`: each call gives the next answer, the last one again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Position | None) -> None:
        self.answers = list(answers)
        self.calls = 0
        monkeypatch.setattr(SharedLog, "tail", lambda _: self._tail())

    async def _tail(self) -> Position | None:
        await anyio.lowlevel.checkpoint()
        self.calls += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_subscribe_waits_for_a_log_that_was_emptied(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it stands still: while a listener fills it again, it ends before what was there."""
    monkeypatch.setattr(notifier_module, "LOOK_SECONDS", 0.001)
    tails = Tails(monkeypatch, None, None, Position(1, 4), Position(1, 8), Position(1, 9))

    async def main() -> None:
        await service.subscribe("a")
        await listen(service)

    run_on(loop, main)
    assert feed.asked == [((), "1-9")]
    assert tails.calls == 6


@pytest.mark.parametrize(
    ("seqs", "end"),
    [
        ((40, 5000, 5000), 5000),  # nobody can know whether it comes back or is busy
        ((40, None, 3, 8, 8), 8),
        ((40, 3, 8, 8), 8),
    ],
)
def test_subscribe_looks_twice_where_the_log_ends(
    loop: Loop,
    service: RedisNotifierService,
    feed: FakeFeed,
    monkeypatch: pytest.MonkeyPatch,
    seqs: tuple[int | None, ...],
    end: int,
) -> None:
    """The first look may fall into a log that was emptied, and comes back."""
    monkeypatch.setattr(notifier_module, "LOOK_SECONDS", 0.001)
    Tails(monkeypatch, *(None if seq is None else Position(1, seq) for seq in seqs))

    async def main() -> None:
        await service.subscribe("a")
        await listen(service)

    run_on(loop, main)
    assert feed.asked == [((), f"1-{end}")]


def test_subscribe_waits_for_no_end_of_a_busy_log(
    loop: Loop, service: RedisNotifierService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier_module, "LOOK_SECONDS", 0.001)
    tails = Tails(monkeypatch, *(Position(1, seq) for seq in range(9)))

    run_on(loop, service.subscribe)
    assert tails.calls == 2


def test_subscribe_without_any_log_begins_with_a_gap(
    loop: Loop, feed: FakeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor means nothing, which is said by a gap of `unknown_position`."""
    Tails(monkeypatch, None)
    service = RedisNotifierService(NOWHERE, channels=("a", "b"), heartbeat_timeout_seconds=0.2)

    async def main() -> None:
        await service.subscribe()
        await listen(service)

    run_on(loop, main)
    assert feed.asked == [((), "")]


def test_subscribe_while_the_loop_runs_changes_what_it_brings(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: nothing comes twice, and nothing is left out, neither now nor by the next loop."""
    tails = Tails(monkeypatch, Position(1, 0))
    called: list[tuple[str, int]] = []

    async def main() -> None:
        for channel in ("a", "b"):
            service.register_callback(channel, lambda channel, payload: called.append((channel, payload["n"][0])))
        await service.subscribe("a")

        async def look() -> None:
            feed.say(event(1), event(2, "b"))
            await anyio.wait_all_tasks_blocked()
            await service.subscribe("a", "b")
            feed.say(event(3, "b"), event(4))
            await anyio.wait_all_tasks_blocked()
            await service.subscribe("b")
            feed.say(event(5, "b"), event(6))
            await anyio.wait_all_tasks_blocked()

        await listen(service, look)
        await listen(service)

    run_on(loop, main)
    assert called == [("a", 1), ("b", 3), ("a", 4), ("b", 5)]
    assert [after for _, after in feed.asked] == ["1-0", "1-6"]
    assert tails.calls == 2


@pytest.mark.parametrize("mode", ["none", "redis"])
def test_subscribe_while_the_loop_waits_for_a_source(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The loop would begin when it is live, which may be later: so it begins where the log ended at the call."""
    Tails(monkeypatch, Position(1, 3))
    feed.mode = mode
    called: list[int] = []

    async def main() -> None:
        service.register_callback("a", lambda _, payload: called.append(payload["n"][0]))

        async def look() -> None:
            await service.subscribe("a")
            await anyio.wait_all_tasks_blocked()
            feed.say(event(4), event(5, "b"))
            await anyio.wait_all_tasks_blocked()

        await listen(service, look)
        await listen(service)

    run_on(loop, main)
    assert called == [4]
    assert [after for _, after in feed.asked] == ([None, "1-3", "1-5"] if mode == "none" else [None, "1-5"])


def test_a_subscription_that_the_loop_never_begins_is_kept_for_the_next_one(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tails(monkeypatch, Position(1, 3))

    async def main() -> None:
        await listen(service, service.subscribe)
        await listen(service)

    run_on(loop, main)
    assert [after for _, after in feed.asked] == [None, "1-3"]


def test_close_waits_for_the_callback_that_runs(loop: Loop, feed: FakeFeed, service: RedisNotifierService) -> None:
    story: list[str] = []

    async def main() -> None:
        begun, finish = anyio.Event(), anyio.Event()

        async def slow(channel: str, payload: Any) -> None:
            begun.set()
            await finish.wait()
            story.append("callback")

        async def run() -> None:
            await service.listen_loop()
            story.append("loop")

        async def close() -> None:
            await service.close()
            story.append("closed")

        service.register_callback("a", slow)
        feed.events = [event(1), event(2)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await begun.wait()
            tasks.start_soon(close)
            tasks.start_soon(service.disconnect)
            await anyio.wait_all_tasks_blocked()
            assert story == []
            finish.set()
        await service.close()
        await service.listen_loop()

    run_on(loop, main)
    assert sorted(story) == ["callback", "closed", "loop"]
    assert story[0] == "callback"
    assert len(feed.asked) == 1


@pytest.mark.parametrize("by_a_task", [False, True])
def test_close_inside_of_a_callback(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, by_a_task: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier_module, "CLOSE_SECONDS", 1000)  # for itself it does not wait
    story: list[str] = []

    async def end(channel: str, payload: Any) -> None:
        if by_a_task:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(service.close)
        else:
            await service.close()
        await anyio.lowlevel.checkpoint()
        story.append("callback")

    async def main() -> None:
        service.register_callback("a", end)
        service.register_callback("a", lambda *_: story.append("the next one"))
        feed.events = [event(1), event(2)]
        await service.listen_loop()

    run_on(loop, main)
    assert story == ["callback", "the next one"]


def test_close_does_not_wait_for_ever(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier_module, "CLOSE_SECONDS", 0.05)

    async def stall(channel: str, payload: Any) -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        service.register_callback("a", stall)
        feed.events = [event(1)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.listen_loop)
            await anyio.wait_all_tasks_blocked()
            await service.close()

    run_on(loop, main)


def test_close_leaves_behind_what_cannot_be_cancelled(
    loop: Loop,
    feed: FakeFeed,
    service: RedisNotifierService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notifier_module, "CLOSE_SECONDS", 0.05)

    async def main() -> None:
        finish = anyio.Event()

        async def shielded(channel: str, payload: Any) -> None:
            with anyio.CancelScope(shield=True):
                await finish.wait()

        service.register_callback("a", shielded)
        feed.events = [event(1)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.listen_loop)
            await anyio.wait_all_tasks_blocked()
            try:
                with anyio.fail_after(30):
                    await service.close()
            finally:
                finish.set()

    run_on(loop, main)
    assert caplog.messages == ["The notifier is closed, but a callback goes on although it was cancelled"]


def test_connect_while_close_waits_wins(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, monkeypatch: pytest.MonkeyPatch
) -> None:
    story: list[str] = []

    def note(word: str) -> Callable[[SharedLog], Coroutine[Any, Any, None]]:
        async def call(_: SharedLog) -> None:
            story.append(word)

        return call

    monkeypatch.setattr(SharedLog, "connect", note("connect"))
    monkeypatch.setattr(SharedLog, "close", note("close"))

    async def main() -> None:
        begun, finish = anyio.Event(), anyio.Event()

        async def slow(channel: str, payload: Any) -> None:
            begun.set()
            await finish.wait()

        service.register_callback("a", slow)
        feed.events = [event(1)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.listen_loop)
            await begun.wait()
            tasks.start_soon(service.close)
            await anyio.wait_all_tasks_blocked()
            await service.connect()
            finish.set()
        assert story == ["connect"]
        await service.close()

    run_on(loop, main)
    assert story == ["connect", "close"]


def test_there_is_one_loop_at_a_time(loop: Loop, feed: FakeFeed, service: RedisNotifierService) -> None:
    async def look() -> None:
        assert service.mode == "redis"
        with pytest.raises(RuntimeError, match="runs already"):
            await service.listen_loop()

    async def main() -> None:
        assert service.mode == "none"
        await listen(service, look)
        assert service.mode == "none"

    run_on(loop, main)


@pytest.mark.parametrize("cancelled_before", [False, True])
def test_a_callback_that_awaits_what_is_cancelled_stops_nothing(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, cancelled_before: bool
) -> None:
    """Also in a task that once took a cancellation for itself and went on, which asyncio remembers."""
    numbers: list[Any] = []

    async def wait_in_vain(channel: str, payload: Any) -> None:
        if loop == "trio":
            with anyio.move_on_after(0):
                await anyio.sleep_forever()
            return
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    async def note(channel: str, payload: Any) -> None:
        numbers.append(payload)
        if len(numbers) == 2:
            await service.close()

    async def main() -> None:
        service.register_callback("a", wait_in_vain)
        service.register_callback("a", note)
        feed.events = [event(1), event(2)]
        if loop == "trio" or not cancelled_before:
            await service.listen_loop()
        else:
            await asyncio.ensure_future(listen_after_a_cancellation())
        assert len(numbers) == 2

    async def listen_after_a_cancellation() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        await service.listen_loop()

    run_on(loop, main)


def test_a_callback_that_cancels_its_loop_ends_it(loop: Loop, feed: FakeFeed, service: RedisNotifierService) -> None:
    """The cancellation arrives in the callback after that."""

    async def main() -> bool:
        scope = anyio.CancelScope()

        def cancel(channel: str, payload: Any) -> None:
            task = None if loop == "trio" else asyncio.current_task()
            scope.cancel() if task is None else task.cancel()

        service.register_callback("a", cancel)
        service.register_callback("a", lambda *_: anyio.sleep_forever())
        feed.events = [event(1)]
        if loop == "trio":
            with scope:
                await service.listen_loop()
            return scope.cancelled_caught
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(service.listen_loop())
        return True

    assert run_on(loop, main)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_passes_as_it_is(
    loop: Loop, feed: FakeFeed, service: RedisNotifierService, kind: type[BaseException]
) -> None:
    def interrupt(channel: str, payload: Any) -> NoReturn:
        raise kind

    async def main() -> bool:
        service.register_callback("a", interrupt)
        feed.events = [event(1)]
        with pytest.raises(kind):
            await service.listen_loop()
        return True

    assert run_on(loop, main)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (float("nan"), "not JSON compliant"),
        ({1, 2}, "set"),
        ("x" * 7998, "at most 7999 bytes"),
        ("\ud800", "surrogates"),
        (eval("[" * 150 + "]" * 150), "nested at most 128"),
    ],
    ids=["nan", "set", "long", "surrogate", "deep"],
)
def test_what_cannot_be_published(loop: Loop, service: RedisNotifierService, payload: Any, error: str) -> None:
    async def main() -> None:
        with pytest.raises((TypeError, ValueError), match=error):
            await service.publish("a", payload)

    run_on(loop, main)


def test_a_payload_without_end(loop: Loop, service: RedisNotifierService) -> None:
    async def main() -> None:
        payload: list[Any] = []
        payload.append(payload)
        with pytest.raises(ValueError, match="Circular"):
            await service.publish("a", payload)
        payload = []
        for _ in range(20_000):
            payload = [payload]
        with pytest.raises(ValueError, match="nested at most 128"):
            await service.publish("a", payload)

    run_on(loop, main)


def test_unknown_channels_are_refused(loop: Loop, service: RedisNotifierService) -> None:
    async def main() -> None:
        for call in (service.publish("z", 1), service.subscribe("a", "z")):
            with pytest.raises(SettingsError, match=r"'z' is no configured channel .*: there are a, b"):
                await call
        with pytest.raises(SettingsError, match="'z' is no configured channel"):
            service.register_callback("z", print)

    run_on(loop, main)


def test_redis_that_is_not_there_is_said_in_one_line(loop: Loop) -> None:
    async def main() -> None:
        with pytest.raises(RedisLost, match=r"^cannot connect to Redis at 127\.0\.0\.1:\d+: Connection refused$"):
            await init_redis_notifier(f"redis://127.0.0.1:{free_port()}")
        service = RedisNotifierService(NOWHERE)
        for call in (service.subscribe(), service.publish("match_change", 1), service.connect()):
            with pytest.raises(RedisLost):
                await call
        await service.close()
        await service.close()

    run_on(loop, main)


def test_settings_come_from_the_environment_where_no_argument_gives_them(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://there:1")
    monkeypatch.setenv("BRIDGE_REDIS_PREFIX", "x")
    service = bridge.RedisNotifierService(channels=iter(["a"]), retry_seconds=2)
    settings = service.settings
    assert (settings.redis_url, settings.redis_prefix, settings.channels) == ("redis://there:1", "x", ("a",))
    assert (settings.use_redis_notifier, settings.retry_seconds) == (True, 2)
    assert RedisNotifierService("redis://here:2").settings.redis_url == "redis://here:2"
    assert RedisNotifierService(channels="match_change, b").settings.channels == ("match_change", "b")
    with pytest.raises(SettingsError, match=r"^channels: 5 is not allowed; give names, or one text with commas$"):
        RedisNotifierService(channels=5)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="redis_url"):
        RedisNotifierService("http://here")
    with pytest.raises(SettingsError, match="unknown setting 'prefix'"):
        RedisNotifierService(prefix="x")
