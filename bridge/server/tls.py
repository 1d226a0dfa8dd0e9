"""TLS: the certificate, and the pump that makes a plain socket of an encrypted connection.

    peer ◀─ TLS ─▶ raw socket ─ SSLStream ◀─ pump ─▶ outer ═ socketpair ═ inner ◀─▶ everything else

The hub writes straight into non-blocking sockets. So that it needs to know nothing of TLS, it gets one end of a pair,
and the pump carries bytes between the other end and the peer. What the pump and the pair hold is bounded and small:
where the peer does not read, the pair is full soon, and the client's buffer works as it does without TLS.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio

from bridge.errors import SettingsError
from bridge.server.http import linger
from bridge.settings import Settings, variable
from bridge.telemetry import error_text, log

DESCRIPTORS_A_CONNECTION = 3
HANDSHAKE_SECONDS = 10.0
FLUSH_SECONDS = 10.0
"""How long the peer may take to read what was sent to it before its connection was ended here."""
GOODBYE_SECONDS = 0.5
"""The same, where the whole process ends."""
NOTIFY_SECONDS = 1.0
"""How long the peer may take to answer the end of TLS before it gets the end of TCP."""
PEER_SECONDS = 60.0
"""A peer that acknowledges nothing of what was sent to it for so long is dead, whatever protocol is spoken inside."""

_PAIR_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_RESET_ON_CLOSE = b"\1\0\0\0\0\0\0\0"

Handle = Callable[[socket.socket], Awaitable[None]]
Stream = trio.SSLStream[trio.SocketStream]


class Tls:
    """The certificate and key from two PEM files, which can be read again. Raises SettingsError, one line, at first."""

    def __init__(self, certificate: str, key: str) -> None:
        self._paths = (certificate, key)
        self.context = _context(certificate, key)

    def reload(self) -> None:
        """Use what the files hold now for new connections; where they cannot be used, say so and keep the old pair."""
        try:
            self.context = _context(*self._paths)
        except SettingsError as error:
            log.error("The old TLS certificate stays in use: %s", error)
        else:
            log.info("The TLS certificate was read again")


def open_tls(settings: Settings) -> Tls | None:
    """What `BRIDGE_TLS_CERT` and `BRIDGE_TLS_KEY` say; None without them. Raises SettingsError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Tls(settings.tls_cert, settings.tls_key)


async def serve_tls(raw: socket.socket, context: ssl.SSLContext, handle: Handle) -> None:
    """Make the handshake, and have `handle` serve the connection on a plain non-blocking socket, which is closed here.

    Raises what `handle` raises; trio.BrokenResourceError or trio.TooSlowError where the handshake fails. Closing `raw`
    is left to the caller. Cancelling gives what `handle` said last half a second to leave.
    """
    transport = trio.SocketStream(trio.socket.from_stdlib_socket(raw))
    stream = trio.SSLStream(transport, context, server_side=True)
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            await stream.do_handshake()
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(PEER_SECONDS * 1000))
        await _serve(raw, stream, handle)
    finally:
        vars(stream).clear()  # it refers to itself: OpenSSL's buffers would be kept until somebody looks for garbage


async def _serve(raw: socket.socket, stream: Stream, handle: Handle) -> None:
    inner, far = socket.socketpair()
    with inner, far:
        for end in (inner, far):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PAIR_BYTES)
        outer = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        scope = trio.CancelScope(shield=True)  # what was said before a cancellation is still to be carried
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pump, scope, raw, stream, outer)
            patience_seconds = GOODBYE_SECONDS
            try:
                await handle(inner)
                patience_seconds = FLUSH_SECONDS
            finally:
                inner.close()
                scope.deadline = trio.current_time() + patience_seconds


async def _pump(scope: trio.CancelScope, raw: socket.socket, stream: Stream, outer: trio.SocketStream) -> None:
    """Carry bytes both ways until our side has ended, then end TLS and TCP; a peer that does not read is reset."""
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_inwards, stream, outer)
            finished = await _outwards(stream, outer)
            nursery.cancel_scope.cancel()
        if finished:
            with trio.move_on_after(NOTIFY_SECONDS), suppress(trio.BrokenResourceError):
                await stream.unwrap()
            with suppress(OSError):
                await linger(raw)
    if scope.cancelled_caught:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


async def _inwards(stream: Stream, outer: trio.SocketStream) -> None:
    """From the peer to us, until it ends."""
    try:
        while data := await stream.receive_some(_CHUNK_BYTES):
            await outer.send_all(data)
        await outer.send_eof()
    except trio.BrokenResourceError as error:
        log.debug("A TLS connection ended without saying so: %s", error_text(error.__cause__ or error))
        _end(outer)


async def _outwards(stream: Stream, outer: trio.SocketStream) -> bool:
    """From us to the peer, until all was sent; False where the peer takes no more."""
    try:
        while data := await outer.receive_some(_CHUNK_BYTES):
            await stream.send_all(data)
    except trio.BrokenResourceError:
        _end(outer)
        return False
    return True


def _end(outer: trio.SocketStream) -> None:
    """Whoever has the other end of the pair reads its end, and cannot write any more."""
    with suppress(OSError):
        outer.socket.shutdown(socket.SHUT_RDWR)


def _context(certificate: str, key: str) -> ssl.SSLContext:
    _check(certificate, "tls_cert", "CERTIFICATE-----")
    _check(key, "tls_key", "PRIVATE KEY-----")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_refuse_to_ask)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"the key in {key} does not belong to the certificate in {certificate}"
        else:
            problem = f"OpenSSL cannot use it with {certificate}: {error.reason or error}"
        raise SettingsError(f"{variable('tls_key')}: {problem}") from error
    except _Encrypted:
        problem = f"the key in {key} is encrypted, and nobody is there to ask for its password; give a plain one"
        raise SettingsError(f"{variable('tls_key')}: {problem}") from None
    return context


def _check(path: str, field: str, needed: str) -> None:
    try:
        text = Path(path).read_text("latin-1")
    except OSError as error:
        raise SettingsError(f"{variable(field)}: {path} cannot be read: {error.strerror}") from error
    if needed not in text:
        raise SettingsError(f"{variable(field)}: {path} is no PEM file with a -----BEGIN … {needed}")


class _Encrypted(Exception):
    """The key needs a password."""


def _refuse_to_ask() -> str:
    raise _Encrypted
