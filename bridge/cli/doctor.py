"""`doctor`: which servers and bridges to look at, and what the exit code is."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial

from bridge.announcement import newest
from bridge.cli.options import Flags
from bridge.cli.signals import run_trio
from bridge.doctor import Examination, Finding, Level, examine
from bridge.doctor.report import printer, summary
from bridge.doctor.running import Place, expected, named
from bridge.errors import SettingsError
from bridge.settings import Settings, load


def run_doctor(flags: Flags, *, urls: Sequence[str], as_json: bool) -> bool:
    """Show what is found; whether nothing is bad. Raises SettingsError where the settings are."""
    settings = load(flags)
    places = tuple(map(named, urls))
    if settings.embedded:
        settings, default = _on_embedded(settings)
    else:
        default = expected(settings)
    levels: Counter[Level] = Counter()
    show_one = printer(as_json=as_json)

    def show(finding: Finding) -> None:
        levels[finding.level] += 1
        show_one(finding)

    examination = Examination(settings, places or (default,), _as_server(flags, settings))
    try:
        run_trio(partial(examine, examination, show))
        if not as_json:
            print(summary(levels), flush=True)
    except* BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit
        levels["bad"] += 1  # what nobody read is not known to be well
    return not levels["bad"]


def _on_embedded(settings: Settings) -> tuple[Settings, Place]:
    """The settings for the embedded servers of a running bridge, and where it serves."""
    bridge = newest()
    if bridge is None:
        raise SettingsError("DATABASE_URL and DB_HOST are not set, and no embedded bridge of this user is running")
    given = settings.model_fields_set
    use_redis = settings.use_redis_notifier if "use_redis_notifier" in given else True
    servers = {"database_url": bridge.database_url, "redis_url": bridge.redis_url, "use_redis_notifier": use_redis}
    settings = settings.model_copy(update=servers)
    if bridge.url is None or given & {"host", "port"}:
        return settings, expected(settings)
    return settings, Place(bridge.url, named=False, verified=False)


def _as_server(flags: Flags, settings: Settings) -> tuple[Finding, ...]:
    """What `serve` would refuse with these settings, or cannot find in the files that they name."""
    from bridge.service import check_files

    check_files(settings, serves_clients=True)
    try:
        load(flags, serves_clients=True)
    except SettingsError as error:
        todo = "for listen this is fine; serve ends with it"
        return (Finding("warning", "settings", f"serve would refuse them: {error}", todo),)
    return ()
