"""What a client asks for on its open WebSocket, done: subscriptions come and go, and mistakes are answered."""

from collections.abc import Callable
from typing import assert_never

from bridge.core.grants import Grant
from bridge.core.messages import MAX_SUBSCRIPTIONS, Patience, Ping, Refused, Subscribe, Unsubscribe
from bridge.core.wire import POLICY_VIOLATION, error_json, pong_json
from bridge.hub.client import Client, State
from bridge.hub.encoding import Message, encode
from bridge.hub.hub import Hub


class Talk:
    """One client's side of the conversation. It begins with the subscription that the URL asked for.

    `clock` gives seconds that never go back.
    """

    def __init__(self, hub: Hub, client: Client, grant: Grant, clock: Callable[[], float]) -> None:
        self._hub = hub
        self._client = client
        self._grant = grant
        self._clock = clock
        self._patience = Patience(clock())

    def hear(self, message: str | bytes) -> None:
        """Do what a message asks for, or say why not; who keeps making mistakes is closed with 1008.

        Never raises. A client that is closed already is not listened to.
        """
        if self._client.state is not State.OPEN:
            return
        try:
            self._do(self._patience.read(message, self._clock()))
        except Refused as error:
            self._client.put(encode(self._client.protocol, Message(error_json(error.code, str(error)), "error")))
        if self._patience.enough is not None:
            self._client.end(POLICY_VIOLATION, self._patience.enough)

    def _do(self, message: Subscribe | Unsubscribe | Ping) -> None:
        match message:
            case Subscribe():
                self._subscribe(message)
            case Unsubscribe(sub):
                if not self._hub.unsubscribe(self._client, sub):
                    raise Refused("bad_message", f"there is no subscription {_named(sub)} to end")
            case Ping():
                self._client.put(self._pong(), self._pong)
            case _:
                assert_never(message)

    def _subscribe(self, asked: Subscribe) -> None:
        subscription = asked.subscription(self._grant, self._hub.channels)
        names = self._hub.subscription_names(self._client)
        if asked.sub not in names and len(names) >= MAX_SUBSCRIPTIONS:
            raise Refused(
                "too_many_subscriptions", f"there are {MAX_SUBSCRIPTIONS} subscriptions already; end or replace one"
            )
        self._hub.subscribe(self._client, asked.sub, subscription, asked.after)

    def _pong(self) -> bytes:
        return encode(self._client.protocol, Message(pong_json(self._hub.cursor(self._client)), "pong"))


def _named(sub: str | None) -> str:
    return "of the URL (without sub)" if sub is None else f"named {sub!r}"
