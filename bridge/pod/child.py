"""A child's process: ``python -m bridge.pod.child ROLE``, started by a supervisor alone.

It takes no orders from signals but SIGTERM and SIGHUP, which a worker understands as the supervisor's own words: a
terminal's Ctrl-C, and a service manager that signals everybody, leave the order of the end to the supervisor. Where
the supervisor is gone, its end of the control channel closes: a worker then drains and ends, and the listener goes on
until the workers have ended.
"""

import signal
import sys

from bridge.garbage import collect_garbage_rarely
from bridge.signals import block_hangup

IGNORED = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    """Do what was assigned; the exit code."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    block_hangup()
    from bridge.pod.assignment import Assignment
    from bridge.pod.member import run

    if sys.argv[1] == "worker":
        from bridge.pod.worker import work as role
    else:
        from bridge.pod.listener import hear as role
    import trio

    from bridge.telemetry import setup_logging

    try:
        assignment = Assignment.from_stdin()  # it may come later: all that takes time is done by then
    except EOFError:  # the supervisor was killed meanwhile
        return 1
    settings = assignment.settings
    setup_logging(settings.log_format, settings.log_level, process=assignment.name, channel_set=settings.digest)
    collect_garbage_rarely()
    return trio.run(run, assignment, role)


if __name__ == "__main__":
    sys.exit(main())
