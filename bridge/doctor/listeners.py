"""Who listens: LISTEN sessions in PostgreSQL, heartbeats in Redis, and which listener appends to the log."""

from collections.abc import Mapping, Sequence

from bridge.doctor import postgres, redis
from bridge.doctor.report import Finding, count
from bridge.errors import ForeignLog
from bridge.links.redis_log import Beat
from bridge.settings import Settings
from bridge.telemetry import error_text

SUBJECT = "listeners"

_START = "start one: python -m bridge listen, or serve without --no-listener"


def judge(heard: postgres.Seen, log: redis.Seen | None, settings: Settings) -> list[Finding]:
    """What both servers showed, as findings; `log` is None where Redis is not used."""
    sessions = heard.facts.sessions if heard.facts is not None else None
    findings = [] if sessions is None else [_sessions(sessions, with_redis=log is not None)]
    if log is None or log.beats is None:
        return findings
    findings += _owner(log, heard.database)
    findings.append(_beats(log.beats, sessions, log.workers))
    findings.append(_log(log, settings))
    return findings


def _sessions(sessions: Sequence[postgres.ListenSession], *, with_redis: bool) -> Finding:
    listeners = [session for session in sessions if session.name == "bridge listener"]
    others = len(sessions) - len(listeners)
    places = ", ".join(f"{session.address or 'its own machine'} (process {session.process})" for session in listeners)
    text = f"{count(len(listeners), 'listener session')} in PostgreSQL"
    if places:
        text += f", from {places}"
    if not others:
        return Finding("good", SUBJECT, text)
    text += f"; {count(others, 'session')} of servers that listen directly"
    if with_redis and listeners:
        todo = "these have lost the log; what they log says why (Redis, other BRIDGE_CHANNELS, another prefix)"
        return Finding("warning", SUBJECT, text, todo)
    return Finding("good", SUBJECT, text)


def _owner(log: redis.Seen, database: str | None) -> list[Finding]:
    if log.log_error is not None and not isinstance(log.log_error, ForeignLog):
        text = f"the log cannot be read: {error_text(log.log_error)}"
        return [Finding("bad", SUBJECT, text, "mend what the message names; listeners cannot append")]
    if log.owner is None or database is None or log.owner == database:
        return []
    text = f"the log in Redis belongs to database {log.owner}, and this one is {database}: listeners refuse to append"
    todo = "give each database its own BRIDGE_REDIS_PREFIX; after a restore into a new cluster, delete the old keys"
    return [Finding("bad", SUBJECT, text, todo)]


def _beats(
    beats: Mapping[str, Beat], sessions: Sequence[postgres.ListenSession] | None, workers: int | None
) -> Finding:
    follow = "follows" if workers == 1 else "follow"
    served = "" if not workers else f"; {count(workers, 'server')} {follow} the log"
    if not beats:
        text = f"no listener beats in Redis{served}"
        if any(session.name == "bridge listener" for session in sessions or ()):
            todo = "there are listener sessions: see what they log (Redis refuses, or other BRIDGE_CHANNELS or prefix)"
            return Finding("bad", SUBJECT, text, todo)
        return Finding("warning", SUBJECT, f"{text}; nothing brings notifications into the log", _START)
    alive = f"{len(beats)} listener{'s beat' if len(beats) > 1 else ' beats'}"
    if not any(beat.appending for beat in beats.values()):
        return Finding("good", SUBJECT, f"{alive}; the first one with a notification appends{served}")
    if len(beats) == 1:
        return Finding("good", SUBJECT, f"{alive}, and appends; with a second one, that one could take over{served}")
    who = ", ".join(_place(beat, sessions or ()) for beat in beats.values() if beat.appending)
    return Finding("good", SUBJECT, f"{alive}; the one that appends is {who}{served}")


def _log(log: redis.Seen, settings: Settings) -> Finding:
    if log.tail is None:
        return Finding("good", SUBJECT, "the log is empty")
    length = "" if log.entries is None else f"holds {log.entries:,} of about {settings.history_entries:,} entries, and "
    return Finding("good", SUBJECT, f"the log {length}ends at {log.tail}")


def _place(beat: Beat, sessions: Sequence[postgres.ListenSession]) -> str:
    """Where a listener is, by the session whose process it names."""
    address = next((session.address for session in sessions if session.process == beat.process), None)
    return f"{f'at {address}, ' if address else ''}process {beat.process or 'unknown'} in PostgreSQL"
