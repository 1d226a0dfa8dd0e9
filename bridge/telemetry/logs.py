"""The log: to standard error, as text or one JSON object a line.

The log lines of the contract are functions here, one each, so that their wording lives in one place.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

log = logging.getLogger("bridge")


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO     message``, and a stack trace where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return _timestamp(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `message`, and `stack` where there is a stack trace."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _timestamp(record), "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def setup_logging(format: Literal["text", "json"], level: str) -> None:  # noqa: A002
    """Send all logs to standard error: ours from `level` up, those of libraries from WARNING up.

    Calling it again replaces the earlier choice.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    log.setLevel(level.upper())


def redis_failed(error: BaseException) -> None:
    """Redis is lost, and a direct session is about to be opened."""
    log.warning("Redis connection failed: %s. Attempting fallback to PostgreSQL direct LISTEN.", error_text(error))


def switching_to_direct() -> None:
    log.info("Switching to PostgreSQL direct LISTEN fallback mode")


def switched_to_direct() -> None:
    log.info("Fallback to PostgreSQL direct LISTEN successful - realtime features recovered")


def switching_to_redis() -> None:
    log.info("Redis connectivity restored, switching back to Redis mode")


def switched_to_redis() -> None:
    log.info("Switch back to Redis mode successful")


def connection_error(error: BaseException, *, first: bool) -> None:
    """A connection failed; with its stack trace when it is the first failure of a row of failures."""
    log.error("Connection error: %s", error_text(error), exc_info=error if first else None)


def reconnecting(seconds: float) -> None:
    """The next attempt comes after so long: ``5``, ``0.3``."""
    log.info("Reconnecting in %s seconds...", f"{round(seconds, 2):g}")


def connected_to_redis() -> None:
    log.info("Connected to Redis")


def connected_to_postgres() -> None:
    log.info("Connected to PostgreSQL")


def error_text(error: BaseException) -> str:
    """The error's text on one line; its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
