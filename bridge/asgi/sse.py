"""Server-sent events of a Starlette application: the same messages as on a WebSocket, as a response that goes on.

A browser comes back by itself when a stream ends, with the `id:` of the last block in `Last-Event-ID`; that it does not
come back after an answer such as 503 is why who cannot be served gets a stream too, one that ends at once.
"""

from collections.abc import Mapping

import anyio
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from bridge.asgi.desk import NoPlace
from bridge.asgi.door import Refused, Visit
from bridge.asgi.stay import GOODBYE_SECONDS, PEER_SECONDS, Stay
from bridge.core.wire import GOING_AWAY
from bridge.hub.encoding import goodbye
from bridge.hub.retry import retry_seconds

HEADERS: Mapping[str, str] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx would wait for a buffer to fill
    "X-Content-Type-Options": "nosniff",
}


class EventStream(Response):
    """The stream of one client, for as long as either side wants it. Cancelling ends it."""

    def __init__(self, visit: Visit, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=200, headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._visit = visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Take a place, and serve the stream. A client that goes ends it without an error."""
        stream = _Stream(receive, send)
        try:
            stay = Stay(self._visit, "sse")
        except NoPlace:
            if await stream.begin(self):
                await stream.end(GOING_AWAY, "")
            return
        try:
            if await stream.begin(self):
                stay.subscribe(self._visit.after)
                await stream.run(stay)
        finally:
            stay.leave()


class _Stream:
    """What is written into one response."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._gone = False

    async def begin(self, response: Response) -> bool:
        """Send the head, and when to come back; whether the peer took it."""
        head = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        with anyio.move_on_after(PEER_SECONDS) as scope:
            try:
                await self._send(head)
                await self._write(b"retry: %d\n\n" % (retry_seconds() * 1000))
            except OSError:
                return False
        return not scope.cancelled_caught

    async def run(self, stay: Stay) -> None:
        """Pass on what arrives, until either side has ended it."""

        async def send(data: bytes) -> None:
            try:
                await self._write(data)
            except OSError:
                self._leave(stay)

        async def watch() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self._leave(stay)

        inbox = stay.inbox
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                tasks.start_soon(stay.limit)
                await stay.pass_on(send)
                tasks.cancel_scope.cancel()
        finally:
            if not self._gone:
                code = GOING_AWAY if inbox.close_code is None else inbox.close_code
                with anyio.CancelScope(shield=True):
                    await self.end(code, inbox.close_reason)

    async def end(self, code: int, reason: str) -> None:
        """Say goodbye, if the peer takes it."""
        try:
            with anyio.move_on_after(GOODBYE_SECONDS):
                await self._write(goodbye("sse", code, reason), more=False)
        except OSError:
            return

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    def _leave(self, stay: Stay) -> None:
        self._gone = True
        stay.gone()


def come_back_later(headers: Mapping[str, str]) -> Response:
    """The answer where there is no feed: a stream that ends at once."""
    return Response(b"retry: %d\n\n" % (retry_seconds() * 1000), headers={**HEADERS, **headers})


def refusal(refused: Refused, headers: Mapping[str, str]) -> Response:
    """The answer to a request that is not served."""
    always = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return PlainTextResponse(f"{refused}\n", refused.status, {**always, **refused.headers, **headers})
