"""The index of subscriptions against the obvious model: compare every subscription with every event."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.events import Event, Notification, event, fields
from bridge.core.position import Position
from bridge.core.topics import Subscription, Topics

CHANNELS = ("a", "b", "c")
VALUES = ("1", "1.0", "x", "true", "null", "")
PAYLOAD_VALUES = (b"1", b"1.0", b'"1"', b'"x"', b"true", b"null", b'""', b"[1]", b'{"n":1}')

subscriptions = st.builds(
    lambda channels, where: Subscription(
        channels, tuple(sorted((name, tuple(sorted(values))) for name, values in where.items()))
    ),
    st.frozensets(st.sampled_from(CHANNELS), min_size=1),
    st.dictionaries(st.sampled_from(("m", "n")), st.sets(st.sampled_from(VALUES), min_size=1, max_size=3)),
)
payloads = st.one_of(
    st.sampled_from((b'"text"', b"7", b"[]", b'""', b"{}")),
    st.dictionaries(st.sampled_from(("m", "n", "o")), st.sampled_from(PAYLOAD_VALUES)).map(
        lambda given: b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in given.items())
    ),
)
events = st.builds(
    lambda channel, payload: event(Position(1, 1), Notification(channel, payload)),
    st.sampled_from((*CHANNELS, "nobody")),
    payloads,
)


def wants(subscription: Subscription, heard: Event) -> bool:
    present = fields(heard.data)
    return heard.channel in subscription.channels and all(
        any(present.get(name) == value for value in values) for name, values in subscription.where
    )


@given(st.lists(st.lists(subscriptions, max_size=3), max_size=8), st.lists(events, max_size=6), st.data())
def test_match_finds_what_comparing_each_subscription_finds(
    subscribed: list[list[Subscription]], heard: list[Event], data: st.DataObject
) -> None:
    topics: Topics[int] = Topics()
    entries = [(subscription, group) for group, several in enumerate(subscribed) for subscription in several]
    for entry in entries:
        topics.add(*entry)
    for entry in data.draw(st.lists(st.sampled_from(entries), unique_by=id)) if entries else []:
        topics.remove(*entry)
        entries.remove(entry)
    for one in heard:
        wanted = {group for subscription, group in entries if wants(subscription, one)}
        assert sorted(topics.match(one)) == sorted(wanted)

    found = topics.match_all(heard)
    for group in range(len(subscribed)):
        assert list(found.get(group, ())) == [i for i, one in enumerate(heard) if group in topics.match(one)]
    assert all(map(len, found.values()))


@given(subscriptions, events)
def test_a_subscription_matches_as_the_index_does(subscription: Subscription, heard: Event) -> None:
    topics: Topics[int] = Topics()
    topics.add(subscription, 1)
    assert subscription.matches(heard) == wants(subscription, heard) == (topics.match(heard) == [1])
    assert subscription.matches(heard, fields(heard.data)) == wants(subscription, heard)


@given(st.lists(st.tuples(subscriptions, st.integers(0, 2)), max_size=12))
def test_nothing_is_left_when_everybody_is_gone(entries: list[tuple[Subscription, int]]) -> None:
    topics: Topics[int] = Topics()
    for entry in entries:
        topics.add(*entry)
    for entry in entries:
        topics.remove(*entry)
    assert (topics._index, topics._added, topics._repeated) == ({}, {}, 0)


def test_what_was_not_added_cannot_be_removed() -> None:
    topics: Topics[str] = Topics()
    topics.add(Subscription(frozenset({"a"})), "group")
    for subscription, group in ((Subscription(frozenset({"a"})), "other"), (Subscription(frozenset({"b"})), "group")):
        with pytest.raises(KeyError):
            topics.remove(subscription, group)
    assert topics.match(Event(Position(1, 1), "a", b"")) == ["group"]


def test_payloads_are_not_parsed_for_clients_without_a_filter() -> None:
    topics: Topics[str] = Topics()
    topics.add(Subscription(frozenset({"a"})), "all of a")
    topics.add(Subscription(frozenset({"b"}), (("m", ("1",)),)), "some of b")
    silly = Event(Position(1, 1), "a", b"no JSON at all")
    assert topics.match(silly) == ["all of a"]
    assert topics.match_all([silly, silly]) == {"all of a": range(2)}
