"""The WebSocket protocol from the client's side, however its bytes are cut."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason

from bridge.client.conversation import MAX_BODY_BYTES, Accepted, Broken, Closed, Conversation, Heard, Rejected

LIMIT = 1000


def begun() -> tuple[Conversation, WSConnection]:
    """A client that has asked, and a server that has heard it."""
    client, server = Conversation(LIMIT), WSConnection(ConnectionType.SERVER)
    client.request("h:1", "/ws?channel=a", [(b"Authorization", b"Bearer x")])
    server.receive_data(client.outgoing())
    (request,) = server.events()
    assert isinstance(request, Request)
    assert (request.host, request.target, request.extensions) == ("h:1", "/ws?channel=a", [])
    assert (b"authorization", b"Bearer x") in request.extra_headers
    return client, server


def said(server: WSConnection, events: Sequence[Event]) -> bytes:
    return b"".join(bytes(server.send(event)) for event in events)


def fed(client: Conversation, data: bytes, cuts: Sequence[int] = ()) -> list[Heard]:
    heard: list[Heard] = []
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    for start, end in pairwise(places):
        heard += client.feed(data[start:end])
    return heard


def replies(client: Conversation, server: WSConnection) -> list[Event]:
    server.receive_data(client.outgoing())
    return list(server.events())


MESSAGES = st.lists(st.tuples(st.text(max_size=200), st.integers(1, 3)), max_size=5)
CUTS = st.lists(st.integers(1, 3000), max_size=30)


@given(MESSAGES, CUTS)
def test_messages_are_whole_however_they_come(messages: list[tuple[str, int]], cuts: list[int]) -> None:
    client, server = begun()
    events: list[Event] = [AcceptConnection()]
    for text, parts in messages:
        step = len(text) // parts + 1
        pieces = [text[at : at + step] for at in range(0, len(text), step)] or [""]
        events += [TextMessage(data=piece, message_finished=False) for piece in pieces[:-1]]
        events += [Ping(payload=b"x"), TextMessage(data=pieces[-1])]
    events.append(CloseConnection(code=1001, reason="retry=3"))
    heard = fed(client, said(server, events), cuts)
    assert heard == [Accepted(), *(text for text, _ in messages), Closed(1001, "retry=3")]
    assert client.ended
    answered = replies(client, server)
    assert answered == [*[Pong(payload=b"x")] * len(messages), CloseConnection(code=1001, reason="retry=3")]


@given(CUTS, st.binary(max_size=300))
def test_a_rejection_has_its_body(cuts: list[int], body: bytes) -> None:
    client, server = begun()
    rejection = RejectConnection(status_code=503, headers=[(b"Retry-After", b"7")], has_body=True)
    data = said(server, [rejection, RejectData(data=body, body_finished=True)])
    (heard,) = fed(client, data, cuts)
    assert isinstance(heard, Rejected)
    assert (heard.status, heard.headers["retry-after"], heard.body) == (503, "7", body)
    assert client.feed(b"more") == []


def test_a_rejection_that_ends_early_counts_too() -> None:
    client, _ = begun()
    assert client.feed(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nnot") == []
    assert client.feed(b"") == [Rejected(403, {"content-length": "9"}, b"not")]


def test_a_body_without_end_is_not_read_to_the_end() -> None:
    client, _ = begun()
    client.feed(b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    assert client.feed(chunk) == []
    (heard,) = client.feed(chunk)
    assert isinstance(heard, Rejected)
    assert len(heard.body) == MAX_BODY_BYTES


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
        b"HTTP/1.1 200 X\r\n" + b"x: y\r\n" * 100_000,
    ],
)
def test_what_is_no_answer_is_told(answer: bytes) -> None:
    client, _ = begun()
    (heard,) = client.feed(answer)
    assert isinstance(heard, Broken)
    assert heard.problem.startswith("no WebSocket answers there")


def test_compression_that_was_not_offered_is_not_taken() -> None:
    client, server = begun()
    answer = said(server, [AcceptConnection()])
    (heard,) = client.feed(answer.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"))
    assert isinstance(heard, Broken)


def test_the_end_without_a_goodbye() -> None:
    client, server = begun()
    assert fed(client, said(server, [AcceptConnection(), TextMessage(data="x")])) == [Accepted(), "x"]
    assert client.feed(b"") == [Closed(1006)]
    assert str(Closed(1006)) == "1006 ABNORMAL_CLOSURE"
    assert str(Closed(4999)) == "4999"
    assert client.feed(b"") == []


@pytest.mark.parametrize(
    "frames",
    [
        [TextMessage(data="x" * (LIMIT + 1))],
        [TextMessage(data="ü" * (LIMIT // 2 + 1))],
        [BytesMessage(data=b"x" * (LIMIT + 1))],
        [TextMessage(data="x" * (LIMIT - 1), message_finished=False), TextMessage(data="yz")],
        [TextMessage(data="x" * (LIMIT + 1), message_finished=False)],
    ],
)
def test_what_is_too_long_ends_it(frames: list[Event]) -> None:
    client, server = begun()
    heard = fed(client, said(server, [AcceptConnection(), TextMessage(data="before"), *frames]), [150, 300])
    assert heard[:2] == [Accepted(), "before"]
    assert heard[2:] == [Broken(f"a message of more than {LIMIT} bytes", CloseReason.MESSAGE_TOO_BIG)]
    assert replies(client, server) == [CloseConnection(code=1009, reason="")]


def test_the_longest_message_is_taken_again_and_again() -> None:
    client, server = begun()
    longest = "x" * LIMIT
    texts = [TextMessage(data=longest)] * 3
    assert fed(client, said(server, [AcceptConnection(), *texts])) == [Accepted(), *[longest] * 3]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x83\x00", 1002),
        (b"\xc1\x01x", 1002),
        (b"\x81\x81abcdx", 1002),
        (b"\x81\x01\xff", 1007),
        (b"\x88\x01x", 1002),
    ],
)
def test_a_broken_frame_ends_it(frame: bytes, code: int) -> None:
    client, server = begun()
    accepted, broken = fed(client, said(server, [AcceptConnection()]) + frame)
    assert accepted == Accepted()
    assert isinstance(broken, Broken)
    assert broken.code == code
    (closing,) = replies(client, server)
    assert isinstance(closing, CloseConnection)
    assert closing.code == code


def test_bytes_are_read_as_text() -> None:
    client, server = begun()
    messages = [BytesMessage(data=b"{}"), BytesMessage(data=b"\xff")]
    assert fed(client, said(server, [AcceptConnection(), *messages])) == [Accepted(), "{}", "\ufffd"]


def test_our_goodbye_is_said_once_and_the_answer_is_the_end() -> None:
    client, server = begun()
    client.close()
    assert client.outgoing() == b""
    fed(client, said(server, [AcceptConnection()]))
    client.close()
    client.close()
    (closing,) = replies(client, server)
    assert closing == CloseConnection(code=1000, reason="")
    assert fed(client, said(server, [closing.response()])) == [Closed(1000, "")]
    assert client.outgoing() == b""


def test_pings_and_pongs() -> None:
    client, server = begun()
    fed(client, said(server, [AcceptConnection()]))
    client.ping()
    client.pong()
    assert replies(client, server) == [Ping(payload=b""), Pong(payload=b"")]
    assert fed(client, said(server, [Pong(payload=b"")])) == []


@given(st.binary(max_size=400), CUTS)
def test_nothing_that_comes_is_an_error_of_ours(data: bytes, cuts: list[int]) -> None:
    client, server = begun()
    fed(client, said(server, [AcceptConnection()]))
    heard = fed(client, data, cuts) + client.feed(b"")
    assert isinstance(heard[-1], Closed | Broken)
    assert all(isinstance(one, str) for one in heard[:-1])
