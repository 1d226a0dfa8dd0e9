"""The index of subscriptions against the obvious model: compare every subscription with every event."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.events import Event, Notification, event, fields
from bridge.core.position import Position
from bridge.core.topics import Subscription, Topics

CHANNELS = ("a", "b", "c")
VALUES = ("1", "1.0", "x", "true", "null", "")
PAYLOAD_VALUES = (b"1", b"1.0", b'"1"', b'"x"', b"true", b"null", b'""', b"[1]", b'{"n":1}')

subscriptions = st.builds(
    lambda channels, where: Subscription(channels, tuple(sorted(where.items()))),
    st.frozensets(st.sampled_from(CHANNELS), min_size=1),
    st.dictionaries(st.sampled_from(("m", "n")), st.sampled_from(VALUES)),
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
        present.get(name) == value for name, value in subscription.where
    )


@given(st.lists(subscriptions, max_size=12), st.lists(events, max_size=6), st.data())
def test_match_finds_what_comparing_each_subscription_finds(
    subscribed: list[Subscription], heard: list[Event], data: st.DataObject
) -> None:
    topics: Topics[int] = Topics()
    groups = dict(enumerate(subscribed))
    for group, subscription in groups.items():
        topics.add(subscription, group)
    gone = data.draw(st.sets(st.sampled_from(sorted(groups)))) if groups else set()
    for group in gone:
        topics.remove(groups.pop(group), group)
    for one in heard:
        assert sorted(topics.match(one)) == sorted(g for g, subscription in groups.items() if wants(subscription, one))


@given(st.lists(subscriptions, max_size=12))
def test_nothing_is_left_when_everybody_is_gone(subscribed: list[Subscription]) -> None:
    topics: Topics[int] = Topics()
    for group, subscription in enumerate(subscribed):
        topics.add(subscription, group)
    for group, subscription in enumerate(subscribed):
        topics.remove(subscription, group)
    assert topics._index == {}


def test_payloads_are_not_parsed_for_clients_without_a_filter() -> None:
    topics: Topics[str] = Topics()
    topics.add(Subscription(frozenset({"a"})), "all of a")
    topics.add(Subscription(frozenset({"b"}), (("m", "1"),)), "some of b")
    assert topics.match(Event(Position(1, 1), "a", b"no JSON at all")) == ["all of a"]
