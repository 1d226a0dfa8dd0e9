"""Redis: what follows from what was seen of it."""

from bridge.doctor.redis import ANSWER_SECONDS, SUBJECT, Seen, Step
from bridge.doctor.report import Finding, Level, milliseconds, size
from bridge.errors import BridgeError, LogRefused, RedisUnusable
from bridge.links.redis import NoPermission
from bridge.links.redis_log import MAX_BATCH_BYTES
from bridge.settings import Settings
from bridge.telemetry import error_text

FULL_WARNING_SHARE, FULL_BAD_SHARE = 0.8, 0.98
SMALLEST_LIMIT_BYTES = 4 * MAX_BATCH_BYTES
"""Redis drops a subscriber for whom more than its limit waits: a few batches have to fit."""
SMALL_LIMIT_BYTES = 32 * MAX_BATCH_BYTES


def judge(seen: Seen, settings: Settings) -> list[Finding]:
    """What was seen, as findings."""
    if not seen.server:
        return [_unreached(seen)]
    findings = [
        _good(f"{seen.where} answered in {milliseconds(seen.connect_seconds)}"),
        _good(f"version {seen.server}"),
    ]
    if Step.RIGHTS in seen.done:
        findings += _writes(seen, settings)
    if Step.SCRIPT in seen.done:
        findings.append(_script(seen))
    if Step.LISTEN in seen.done:
        findings.append(_pubsub(seen, settings))
    if Step.FACTS in seen.done:
        findings += [*_memory(seen.info), _output_limit(seen.output_limit)]
    if seen.error is not None:
        text = f"it was lost while {seen.doing}: {error_text(seen.error)}"
        findings.append(Finding("bad", SUBJECT, text, "find out why it ends or delays connections"))
    return findings


def _unreached(seen: Seen) -> Finding:
    text = error_text(seen.error) if seen.error else f"nothing was heard while {seen.doing}"
    if isinstance(seen.error, RedisUnusable):
        return Finding("bad", SUBJECT, text, "correct REDIS_URL, or what the message names on the server")
    todo = "start it, or correct REDIS_URL; its bind, protected-mode or a firewall may be in the way"
    return Finding("bad", SUBJECT, text, todo)


def _writes(seen: Seen, settings: Settings) -> list[Finding]:
    """Whether it is the master, and takes what the bridge writes."""
    if seen.role == "replica":
        todo = "give the master in REDIS_URL, or Sentinels that know it (redis+sentinel://)"
        return [Finding("bad", SUBJECT, "it is a replica, which takes no writes", todo)]
    if not seen.rights_seen:
        return [Finding("unseen", SUBJECT, "whether it takes writes cannot be seen: it refuses MULTI")]
    forbidden = [refusal.command for refusal in seen.refusals if isinstance(refusal.error, NoPermission)]
    others = [refusal for refusal in seen.refusals if not isinstance(refusal.error, NoPermission)]
    findings = []
    if forbidden:
        text = f"its ACL rules forbid {', '.join(dict.fromkeys(forbidden))} below {settings.redis_prefix}:"
        findings.append(Finding("bad", SUBJECT, text, _rights(settings)))
    if others:
        text = f"it refuses {', '.join(dict.fromkeys(each.command for each in others))}: {error_text(others[0].error)}"
        findings.append(Finding("bad", SUBJECT, text, _refused_todo(others[0].error)))
    return findings or [_good("it takes writes, and the rights suffice")]


def _refused_todo(error: BridgeError) -> str:
    if isinstance(error, LogRefused):
        return "give it memory or disk, or the replicas that it wants; until then workers listen to PostgreSQL directly"
    return "mend what the message names on the server"


def _rights(settings: Settings) -> str:
    prefix = settings.redis_prefix
    return (
        f"ACL SETUSER … ~{prefix}:* resetchannels &{prefix}:* +@read +@write +@stream +@pubsub +@scripting "
        "+@connection (and +info +config|get +time +@transaction for the doctor)"
    )


def _script(seen: Seen) -> Finding:
    if seen.script_error is None:
        return _good("the script loads and runs")
    text = f"the script that appends to the log does not run: {error_text(seen.script_error)}"
    return Finding("bad", SUBJECT, text, "allow SCRIPT LOAD and EVALSHA, and what the script calls, to this user")


def _pubsub(seen: Seen, settings: Settings) -> Finding:
    if seen.ear_error is not None:
        if isinstance(seen.ear_error, NoPermission):
            text = f"it forbids to publish or subscribe below {settings.redis_prefix}:"
            return Finding("bad", SUBJECT, text, _rights(settings))
        return Finding("bad", SUBJECT, f"no subscription: {error_text(seen.ear_error)}", "mend what the message names")
    if seen.round_trip_seconds is None:
        text = f"what is published does not reach a subscriber within {ANSWER_SECONDS:g} s"
        todo = "what stands in between (a proxy, a demoted master) has to pass PUBLISH and SUBSCRIBE to the same server"
        return Finding("bad", SUBJECT, text, todo)
    text = f"a PUBLISH takes {milliseconds(seen.round_trip_seconds)} to a subscriber"
    if seen.round_trip_seconds >= settings.redis_timeout_seconds / 2:
        todo = f"find out what slows it down, or raise BRIDGE_REDIS_TIMEOUT_SECONDS={settings.redis_timeout_seconds:g}"
        return Finding("warning", SUBJECT, text, todo)
    return _good(text)


def _memory(info: object) -> list[Finding]:
    """How full it is, and what it does when it is full. INFO says both, also where CONFIG is refused."""
    if not isinstance(info, dict) or "used_memory" not in info:
        return [Finding("unseen", SUBJECT, "its memory and eviction policy cannot be seen: it refuses INFO")]
    used, most = _number(info, "used_memory"), _number(info, "maxmemory")
    policy = info.get("maxmemory_policy", "noeviction")
    findings = []
    if most:
        text = f"{size(used)} of {size(most)} memory in use ({used / most:.0%})"
        level: Level = "good" if used < FULL_WARNING_SHARE * most else "warning"
        level = "bad" if used >= FULL_BAD_SHARE * most else level
        todo = "" if level == "good" else "raise maxmemory, or remove keys of others; full, it takes no more entries"
        findings.append(Finding(level, SUBJECT, text, todo))
    else:
        findings.append(_good(f"{size(used)} memory in use, no maxmemory set"))
    evicted = _number(info, "evicted_keys")
    if not policy.startswith("allkeys"):
        findings.append(_good(f"maxmemory-policy {policy}: the log is never evicted"))
    else:
        gone = f"; it has evicted {evicted:,} keys already" if evicted else ""
        text = f"maxmemory-policy {policy} may throw the log away, and what clients resume from with it{gone}"
        todo = "set maxmemory-policy to noeviction or volatile-…, or give the bridge a Redis of its own"
        findings.append(Finding("bad" if most else "warning", SUBJECT, text, todo))
    return findings


def _output_limit(setting: str | None) -> Finding:
    """``normal 0 0 0 slave … pubsub HARD SOFT SECONDS``; 0 is no limit."""
    name = "client-output-buffer-limit"
    if setting is None:
        return Finding("unseen", SUBJECT, f"{name} cannot be seen: it refuses CONFIG GET, as managed ones do")
    words = setting.split()
    try:
        at = words.index("pubsub")
        hard, soft, seconds = (int(word) for word in words[at + 1 : at + 4])
    except ValueError:
        return Finding("unseen", SUBJECT, f"{name} cannot be read: {setting!r}")
    limits = [limit for limit in (hard, soft) if limit]
    if not limits:
        return _good(f"{name}: none for subscribers")
    text = f"{name}: subscribers are dropped at {size(hard) if hard else 'no bound'}"
    if soft:
        text += f", or at {size(soft)} for {seconds} s"
    if min(limits) < SMALL_LIMIT_BYTES:
        level: Level = "bad" if min(limits) < SMALLEST_LIMIT_BYTES else "warning"
        todo = "CONFIG SET client-output-buffer-limit 'pubsub 33554432 8388608 60', the default: a burst has to fit"
        return Finding(level, SUBJECT, text, todo)
    return _good(text)


def _number(info: dict[str, str], name: str) -> int:
    value = info.get(name, "")
    return int(value) if value.isdecimal() else 0


def _good(text: str) -> Finding:
    return Finding("good", SUBJECT, text)
