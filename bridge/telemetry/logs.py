"""The log: to standard error, as text or one JSON object a line.

The log lines that are promised are functions here, one each, so that their wording lives in one place. In JSON a line
has fields beside its message, for who filters: `fields` gives them to a log call. Nothing is logged at INFO or above
for each client or event, and what a client sent is not logged: a token may be in it, in the wrong place. Where the text
of an error holds one all the same, it is taken out.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal

from bridge.errors import PodLost, PostgresLost
from bridge.redaction import without_tokens

log = logging.getLogger("bridge")

_LINE_BREAKS: Final = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""What some readers of lines take for the end of one, and JSON does not escape."""


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO     message``, and a stack trace where there is one.

    After the message comes `` [process]``, where there are several.
    """

    def __init__(self, process: str | None = None) -> None:
        suffix = f" [{process}]" if process else ""
        super().__init__("%(asctime)s %(levelname)-8s %(message)s" + suffix)

    def format(self, record: logging.LogRecord) -> str:
        return without_tokens(super().format(record))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return _timestamp(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `message`, then what the line has of these.

    `logger` where it is a library's; `error`, the type; the call's own `fields`; the `context` of the process; `stack`,
    the stack trace.
    """

    def __init__(self, context: dict[str, object]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if record.name != log.name:
            line["logger"] = record.name
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        more = getattr(record, "fields", {}) | self._context
        line |= {name: value for name, value in more.items() if name not in line}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        text = without_tokens(json.dumps(line, ensure_ascii=False, default=str)).translate(_LINE_BREAKS)
        return text.encode(errors="backslashreplace").decode()  # lone surrogates, as JSON escapes them too


def setup_logging(
    format: Literal["text", "json"],  # noqa: A002
    level: str,
    *,
    process: str | None = None,
    **context: object,
) -> None:
    """Send all logs to standard error: ours from `level` up, those of libraries and Python's warnings from WARNING up.

    `process` names one of several in every line. `context` goes into every line of JSON; there, an error that ends the
    process is a line too. Calling it again replaces the earlier choice.
    """
    handler = logging.StreamHandler(sys.stderr)
    if process is not None:
        context["process"] = process
    handler.setFormatter(JsonFormatter(context) if format == "json" else TextFormatter(process))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(format == "json")
    sys.excepthook = _log_the_end if format == "json" else sys.__excepthook__
    log.setLevel(level.upper())


def fields(**values: object) -> dict[str, object]:
    """What a line of JSON is to have beside its message, as `extra` of a log call."""
    return {"fields": values}


def redis_failed(error: BaseException) -> None:
    """Redis is lost, and a direct session is about to be opened."""
    log.warning(
        "Redis connection failed: %s. Attempting fallback to PostgreSQL direct LISTEN.",
        error_text(error),
        extra=fields(link="redis", mode="none", reason=error_text(error)),
    )


def switching_to_direct() -> None:
    log.info("Switching to PostgreSQL direct LISTEN fallback mode", extra=fields(mode="none"))


def switched_to_direct() -> None:
    log.info(
        "Fallback to PostgreSQL direct LISTEN successful - realtime features recovered", extra=fields(mode="direct")
    )


def switching_to_redis() -> None:
    log.info("Redis connectivity restored, switching back to Redis mode", extra=fields(mode="direct"))


def switched_to_redis() -> None:
    log.info("Switch back to Redis mode successful", extra=fields(mode="redis"))


def connection_error(error: BaseException, *, first: bool) -> None:
    """A connection failed; with its stack trace when it is the first failure of a row of failures."""
    link = "postgres" if isinstance(error, PostgresLost) else "pod" if isinstance(error, PodLost) else "redis"
    log.error(
        "Connection error: %s",
        error_text(error),
        exc_info=error if first else None,
        extra=fields(link=link, error=type(error).__name__),
    )


def reconnecting(seconds: float) -> None:
    """The next attempt comes after so long: ``5``, ``0.3``."""
    rounded = round(seconds, 2)
    log.info("Reconnecting in %s seconds...", f"{rounded:g}", extra=fields(seconds=rounded))


def connected_to_redis() -> None:
    log.info("Connected to Redis", extra=fields(link="redis"))


def connected_to_postgres() -> None:
    log.info("Connected to PostgreSQL", extra=fields(link="postgres"))


def error_text(error: BaseException) -> str:
    """The error's text on one line; its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def _log_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("The bridge ends because of an error that should not happen", exc_info=(kind, error, trace))


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
