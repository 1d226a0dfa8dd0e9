"""A bridge that runs: what its /ready and /status say.

A bridge that cannot be reached is worth a warning where nobody named it: the doctor may look before anything is
started. One that was named by ``--url`` has to answer.
"""

import os
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.abc
import h11
import msgspec
from anyio.streams.tls import TLSStream

from bridge import __version__
from bridge.doctor.report import Finding, count
from bridge.errors import BridgeError, SettingsError
from bridge.redaction import redacted
from bridge.settings import Settings
from bridge.telemetry import error_text

SUBJECT = "bridge"
ASK_SECONDS = 5.0
LONGEST_BODY_BYTES = 2**20
RECENT_SECONDS = 600.0
FULL_SHARE = 0.9

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what others bind to, replaced here


class Place(msgspec.Struct, frozen=True):
    """Where a bridge should be. `named`: by the user; otherwise it is where the settings would put it."""

    url: str
    named: bool = True
    verified: bool = True
    """Whether its certificate has to fit: one that serves under another name does not fit 127.0.0.1."""


class Answer(msgspec.Struct, frozen=True):
    """What it answered, or why it did not. `ready` and `status` mean nothing beside an error."""

    place: Place
    error: BridgeError | None = None
    ready: bool = False
    status: dict[str, Any] = {}


def named(url: str) -> Place:
    """The place of ``--url``. Raises SettingsError."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"--url: {redacted(url)!r} is not allowed; give a URL such as http://127.0.0.1:8000")
    return Place(url)


def expected(settings: Settings) -> Place:
    """Where a bridge with these settings serves, from this machine's point of view."""
    host = _ANY_ADDRESS.get(settings.host, settings.host)
    scheme = "http" if settings.tls_cert is None else "https"
    return Place(f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}", named=False, verified=False)


async def ask(place: Place) -> Answer:
    """Ask it, for at most `ASK_SECONDS`. Never raises but for cancellation."""
    try:
        with anyio.fail_after(ASK_SECONDS):
            code, _ = await _get(place, "/ready")
            status_code, body = await _get(place, "/status")
    except TimeoutError:
        return Answer(place, BridgeError(f"no answer within {ASK_SECONDS:g} s"))
    except h11.RemoteProtocolError:
        return Answer(place, BridgeError("what answers is no bridge (if it wants TLS, the URL begins with https://)"))
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        return Answer(place, BridgeError(_reason(error)))
    status = _json(body) if status_code == 200 else None
    if not isinstance(status, dict) or "mode" not in status:
        said = " ".join(body.decode(errors="replace").split())[:200]
        return Answer(place, BridgeError(f"what answers is no bridge, or lets nobody ask: HTTP {status_code} {said}"))
    return Answer(place, None, code == 200, status)


def _json(body: bytes) -> object:
    """What the body says; None where it is no JSON."""
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


async def _get(place: Place, path: str) -> tuple[int, bytes]:
    """Status and body of one GET on a connection of its own."""
    parts = urlsplit(place.url)
    connection = h11.Connection(h11.CLIENT)
    host = parts.netloc.rpartition("@")[2]
    target = parts.path.rstrip("/") + path
    headers = [("Host", host), ("User-Agent", f"notify-bridge/{__version__}"), ("Connection", "close")]
    request = connection.send(h11.Request(method="GET", target=target, headers=headers))
    stream = await _connect(parts, verified=place.verified)
    try:
        await stream.send((request or b"") + (connection.send(h11.EndOfMessage()) or b""))
        return await _response(stream, connection)
    finally:
        await anyio.aclose_forcefully(stream)


async def _connect(parts: SplitResult, *, verified: bool) -> anyio.abc.ByteStream:
    host = str(parts.hostname)
    secure = parts.scheme == "https"
    stream = await anyio.connect_tcp(host, parts.port or (443 if secure else 80))
    if not secure:
        return stream
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return await TLSStream.wrap(stream, hostname=host, ssl_context=context, standard_compatible=False)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


async def _response(stream: anyio.abc.ByteStream, connection: h11.Connection) -> tuple[int, bytes]:
    code, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                data = await stream.receive()
            except anyio.EndOfStream:
                data = b""
            connection.receive_data(data)
        elif isinstance(event, h11.Response):
            code = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LONGEST_BODY_BYTES:
                raise h11.RemoteProtocolError(f"the answer has more than {LONGEST_BODY_BYTES:,} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return code, bytes(body)
        else:
            raise h11.RemoteProtocolError("the connection ended before the answer did")


def judge(answer: Answer, now: float | None = None) -> list[Finding]:
    """What it answered, as findings; `now` in seconds since 1970."""
    place, status = answer.place, answer.status
    where = redacted(place.url)
    if answer.error is not None:
        text = f"{where} was not reached: {error_text(answer.error)}"
        if place.named:
            return [Finding("bad", SUBJECT, text, "start it, or correct --url")]
        todo = "start it (python -m bridge serve), or say where it is with --url"
        return [Finding("warning", SUBJECT, text, todo)]
    findings = [_health(where, answer)]
    findings += _links(where, status)
    findings += _processes(where, status)
    if (news := _news(where, status, time.time() if now is None else now)) is not None:
        findings.append(news)
    clients, most = status.get("clients"), status.get("max_clients")
    if isinstance(clients, int) and isinstance(most, int) and clients >= FULL_SHARE * most:
        text = f"{where} has {clients} of {most} clients"
        findings.append(Finding("warning", SUBJECT, text, "add workers, or raise BRIDGE_MAX_CLIENTS"))
    return findings


def _health(where: str, answer: Answer) -> Finding:
    status = answer.status
    health, mode = status.get("status"), status.get("mode")
    clients = f", {status['clients']} clients" if "clients" in status else ""
    text = f"{where} is {health}, mode {mode}{clients}, version {status.get('version')}"
    if status.get("draining"):
        return Finding("warning", SUBJECT, f"{text}; it sends its clients away", "it is about to end; ask another one")
    if reason := status.get("reason"):
        text += f": {reason}"
    if health != "ok":
        return Finding("bad", SUBJECT, text, "mend what is wrong with its links; what it logs says more")
    if not answer.ready:
        return Finding("bad", SUBJECT, f"{text}, but not ready", "wait a moment and ask again; see what it logs")
    return Finding("good", SUBJECT, text)


def _links(where: str, status: dict[str, Any]) -> list[Finding]:
    links = status.get("links")
    findings = []
    for name, link in links.items() if isinstance(links, dict) else ():
        if not isinstance(link, dict):
            continue
        if error := link.get("error"):
            text = f"{where} has trouble with {name}: {error}"
            findings.append(Finding("bad", SUBJECT, text, "correct what the message names, as that process sees it"))
        elif link.get("state") == "suspect":
            text = f"{where} waits for a probe of its LISTEN session"
            findings.append(Finding("warning", SUBJECT, text, "find out what delays commits in PostgreSQL"))
        if "appending" in link:
            does = "appends to the log" if link["appending"] else "follows the log, and would step in"
            findings.append(Finding("good", SUBJECT, f"{where} {does}"))
    return findings


def _processes(where: str, status: dict[str, Any]) -> list[Finding]:
    """The processes of ``--workers``."""
    entries = status.get("processes")
    processes = [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []
    if not processes:
        return []
    roles = Counter(str(each.get("role")) for each in processes)
    all_of_them = ", ".join(count(number, role) for role, number in sorted(roles.items()))
    findings = [Finding("good", SUBJECT, f"{where} has {all_of_them}")]
    for each in processes:
        name = f"{where}: {each.get('name')} (process {each.get('pid')})"
        if each.get("status") not in ("ok", "starting"):
            text = f"{name} is {each.get('status')}"
            findings.append(Finding("bad", SUBJECT, text, "see what it logs; one that is silent is stopped or stuck"))
        if isinstance(restarts := each.get("restarts"), int) and restarts:
            text = f"{name} was started again {count(restarts, 'time')}"
            findings.append(Finding("warning", SUBJECT, text, "look for the reason in the log, where it ended"))
    return findings


def _news(where: str, status: dict[str, Any], now: float) -> Finding | None:
    """Gaps and switches of the last minutes, if there were any."""
    gaps = _recent(status.get("gaps"), now)
    left = [each for each in _recent(status.get("switches"), now) if each.get("mode") == "none"]
    switches = [each for each in left if each.get("reason") != "starting"]
    if not gaps and not switches:
        return None
    reasons = sorted({str(each.get("reason")) for each in [*gaps, *switches]})
    text = (
        f"{where} announced {count(len(gaps), 'gap')} and lost its source {count(len(switches), 'time')} within "
        f"{RECENT_SECONDS / 60:g} minutes: {'; '.join(reasons)}"
    )
    return Finding("warning", SUBJECT, text, "look for the cause at those times; /status lists them")


def _recent(entries: object, now: float) -> Sequence[dict[str, Any]]:
    found = []
    for entry in entries if isinstance(entries, list) else ():
        try:
            at = datetime.fromisoformat(entry["at"]).timestamp()
        except (KeyError, TypeError, ValueError):
            continue
        if now - at <= RECENT_SECONDS:
            found.append(entry)
    return found


def _reason(error: BaseException) -> str:
    """The innermost cause, in the system's words."""
    while isinstance(error, BaseExceptionGroup) or error.__cause__ is not None:
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return (error.strerror if isinstance(error, OSError) else None) or error_text(error)
