"""A WebSocket of a Starlette application: one task hears what the client says, one passes on what it is to hear."""

from contextlib import suppress

import anyio
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from bridge.asgi.desk import NoPlace
from bridge.asgi.door import Refused, Visit
from bridge.asgi.stay import GOODBYE_SECONDS, PEER_SECONDS, Stay
from bridge.core.messages import MAX_MESSAGE_BYTES
from bridge.core.wire import GOING_AWAY, MAX_CLOSE_REASON_BYTES, OVERLOADED, POLICY_VIOLATION, TOKEN_EXPIRED, TOO_LARGE
from bridge.hub.retry import retry_seconds
from bridge.hub.talk import Talk
from bridge.server.upgrade import SUBPROTOCOL

ANSWERED_BYTES = 64 * 1024
"""Who has more than this waiting is listened to no further, until it reads."""


async def converse(websocket: WebSocket, visit: Visit) -> None:
    """Serve this client until either side ends it, accepting it if that has not been done.

    Cancelling ends it with 1001.
    """
    try:
        stay = Stay(visit, "lines")
    except NoPlace as error:
        await send_away(websocket, error)
        return
    try:
        await _Conversation(websocket, visit, stay).run()
    finally:
        stay.leave()


async def refuse(websocket: WebSocket, refused: Refused) -> None:
    """Answer the handshake with this status; where it has been made, close with 1008, or 4001 for 401."""
    if websocket.application_state is WebSocketState.CONNECTING and _may_answer(websocket):
        answer = PlainTextResponse(f"{refused}\n", refused.status, refused.headers)
        with anyio.move_on_after(GOODBYE_SECONDS), suppress(OSError):
            await websocket.send_denial_response(answer)
    else:
        await _close(websocket, TOKEN_EXPIRED if refused.status == 401 else POLICY_VIOLATION, str(refused))


async def send_away(websocket: WebSocket, error: NoPlace) -> None:
    """No place: 503 where the handshake can be answered, else it is made and ended, so that the client comes back."""
    seconds = retry_seconds()
    if websocket.application_state is WebSocketState.CONNECTING:
        if _may_answer(websocket):
            await refuse(websocket, Refused(503, str(error), {"Retry-After": str(seconds)}))
            return
        if not await _accept(websocket):
            return
    await _close(websocket, OVERLOADED if error.reason == "full" else GOING_AWAY, f"retry={seconds}")


class _Conversation:
    def __init__(self, websocket: WebSocket, visit: Visit, stay: Stay) -> None:
        self._websocket = websocket
        self._visit = visit
        self._stay = stay
        self._gone = False

    async def run(self) -> None:
        try:
            if not await self._accepted():
                self._gone = True
                return
            self._stay.subscribe(self._visit.after)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._hear)
                tasks.start_soon(self._stay.limit)
                await self._stay.pass_on(self._send)
                tasks.cancel_scope.cancel()
        finally:
            inbox = self._stay.inbox
            if not self._gone and self._websocket.application_state is WebSocketState.CONNECTED:
                with anyio.CancelScope(shield=True):
                    code = GOING_AWAY if inbox.close_code is None else inbox.close_code
                    await _close(self._websocket, code, inbox.close_reason or f"retry={retry_seconds()}")

    async def _accepted(self) -> bool:
        """Whether the handshake is done; the client may have gone, or may not take the answer."""
        if self._websocket.application_state is WebSocketState.CONNECTED:
            return True
        offered = SUBPROTOCOL in self._websocket.scope.get("subprotocols", ())
        return await _accept(self._websocket, SUBPROTOCOL if offered else None)

    async def _send(self, data: bytes) -> None:
        try:
            for line in data.decode().split("\n")[:-1]:
                await self._websocket.send_text(line)
        except (WebSocketDisconnect, RuntimeError):  # the latter where the server has closed it, for a bad frame
            self._leave()

    async def _hear(self) -> None:
        """Do what the client asks for, until it has gone."""
        inbox = self._stay.inbox
        talk = Talk(self._visit.feed.hub, inbox, self._visit.grant, anyio.current_time)
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._leave()
                return
            text: str | None = message.get("text")
            said = message.get("bytes") or b"" if text is None else text
            if _is_too_long(said):
                inbox.end(TOO_LARGE, f"a message has at most {MAX_MESSAGE_BYTES} bytes")
            else:
                talk.hear(said)
            if inbox.held_bytes > ANSWERED_BYTES:
                await inbox.flushed()

    def _leave(self) -> None:
        self._gone = True
        self._stay.gone()


def _is_too_long(said: str | bytes) -> bool:
    size = len(said)
    if isinstance(said, str) and MAX_MESSAGE_BYTES // 4 < size <= MAX_MESSAGE_BYTES:
        size = len(said.encode(errors="surrogatepass"))
    return size > MAX_MESSAGE_BYTES


async def _accept(websocket: WebSocket, subprotocol: str | None = None) -> bool:
    """Make the handshake; whether the client is there, and took it."""
    try:
        with anyio.move_on_after(PEER_SECONDS) as scope:
            await websocket.accept(subprotocol)
    except OSError:
        return False
    return not scope.cancelled_caught


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Say goodbye, if the peer takes it, and hear it out: servers may keep a connection of which something waits."""
    was_open = websocket.application_state is WebSocketState.CONNECTED
    text = reason.encode()[:MAX_CLOSE_REASON_BYTES].decode(errors="ignore")
    with anyio.move_on_after(GOODBYE_SECONDS), suppress(OSError, WebSocketDisconnect, RuntimeError):
        await websocket.close(code, text)
    with anyio.move_on_after(GOODBYE_SECONDS), suppress(OSError, RuntimeError):
        while was_open and (await websocket.receive())["type"] != "websocket.disconnect":
            pass


def _may_answer(websocket: WebSocket) -> bool:
    """Whether the server can answer a handshake with a status and a text."""
    return "websocket.http.response" in websocket.scope.get("extensions", {})
