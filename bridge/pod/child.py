"""A child's process: ``python -m bridge.pod.child``, started by a supervisor alone.

It takes no orders from signals but SIGTERM and SIGHUP, which a worker understands as the supervisor's own words: a
terminal's Ctrl-C, and a service manager that signals everybody, leave the order of the end to the supervisor. Where
the supervisor is gone, its end of the control channel closes: a worker then drains and ends, and the listener goes on
until the workers have ended.
"""

import gc
import signal
import sys

IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def main() -> int:
    """Do what was assigned; the exit code."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    from bridge.pod.assignment import Assignment

    assignment = Assignment.from_stdin()
    settings = assignment.settings
    from bridge.telemetry import setup_logging

    setup_logging(settings.log_format, settings.log_level, process=assignment.name, channel_set=settings.digest)
    if assignment.role == "worker":
        from bridge.pod.worker import work as role
    else:
        from bridge.pod.listener import hear as role
    import trio

    from bridge.pod.member import run

    gc.freeze()
    gc.set_threshold(50_000, 20, 10)
    return trio.run(run, assignment, role)


if __name__ == "__main__":
    sys.exit(main())
