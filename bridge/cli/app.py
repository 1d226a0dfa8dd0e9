"""The command line: `serve`, `listen`, `notify`, `tail`, `doctor`; what goes wrong becomes one line and an exit code.

0 after SIGTERM or SIGINT, 2 for bad settings or arguments, 1 otherwise.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from typer.main import get_command

from bridge import __version__
from bridge.cli.options import Flags, spell_out_switch, with_settings
from bridge.errors import BridgeError, SettingsError
from bridge.telemetry import error_text

PROGRAM = "notify-bridge"
_INTERRUPTED = 130
"""What typer makes of KeyboardInterrupt."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    command = get_command(app)
    try:
        code = command.main(spell_out_switch(arguments), prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        return _fail(error.format_message(), 2)
    except BridgeError as error:
        return _fail(error_text(error), 2 if isinstance(error, SettingsError) else 1)
    except BaseExceptionGroup as group:
        return _fail_as_group(group)
    return code if isinstance(code, int) and code != _INTERRUPTED else 0


@app.callback(invoke_without_command=True)
def _common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """From PostgreSQL's NOTIFY to WebSocket clients, through an ordered log in Redis and without it."""
    if version:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise SettingsError("Missing command; give serve, listen, notify, tail or doctor")


@app.command()
@with_settings
def serve(
    *,
    no_listener: Annotated[bool, typer.Option("--no-listener", help="A server only.")] = False,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="So many server processes on one port, beside one listener process; without it one process does all.",
        ),
    ] = None,
    flags: Flags,
) -> None:
    """Listener, publisher, feed and server in one process; or in several, with --workers."""
    from bridge.cli.run import MAX_WORKERS, run_serve

    if workers is not None and not (workers.isascii() and workers.isdecimal() and 1 <= int(workers) <= MAX_WORKERS):
        shown = workers if len(workers) <= 40 else workers[:40] + "…"
        raise SettingsError(f"--workers: {shown!r} is not allowed; give a whole number from 1 to {MAX_WORKERS}")
    run_serve(flags, with_listener=not no_listener, workers=int(workers) if workers else None)


@app.command()
@with_settings
def listen(*, flags: Flags) -> None:
    """The listener alone: PostgreSQL to Redis. Serves /health, /ready and /metrics."""
    from bridge.cli.run import run_listen

    run_listen(flags)


@app.command()
@with_settings
def notify(
    *,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL")],
    payload: Annotated[str, typer.Argument(metavar="PAYLOAD", help="- reads payloads from standard input, one a line")],
    flags: Flags,
) -> None:
    """Send one NOTIFY."""
    from bridge.cli.notify import run_notify

    run_notify(flags, channel, payload)


@app.command()
@with_settings
def tail(
    *,
    only: Annotated[list[str] | None, typer.Argument(metavar="[CHANNEL]...", show_default=False)] = None,
    url: Annotated[str | None, typer.Option(help="Where the bridge is; found by itself if embedded.")] = None,
    where: Annotated[list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Only such payloads.")] = None,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on after this cursor or id.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One message a line, as received.")] = False,
    flags: Flags,
) -> None:
    """Follow a running bridge in the terminal."""
    from bridge.cli.tail import run_tail

    run_tail(flags, url=url, channels=only or [], where=where or [], after=after, as_json=as_json)


@app.command()
@with_settings
def doctor(
    *,
    url: Annotated[list[str] | None, typer.Option(help="A bridge that has to answer; several may be given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One finding a line, as a JSON object.")] = False,
    flags: Flags,
) -> None:
    """Check settings, PostgreSQL, Redis, clocks, listeners and a running bridge; say what is wrong and what to do."""
    from bridge.cli.doctor import run_doctor

    if not run_doctor(flags, urls=url or [], as_json=as_json):
        raise typer.Exit(1)


def _fail(message: str, code: int) -> int:
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _fail_as_group(group: BaseExceptionGroup[BaseException]) -> int:
    """Errors of concurrent tasks: an interrupt wins; what was not made for people is a bug, and is raised."""
    leaves = list(_leaves(group))
    if any(isinstance(error, KeyboardInterrupt) for error in leaves):
        return 0
    if not all(isinstance(error, BridgeError) for error in leaves):
        raise group
    return _fail(error_text(leaves[0]), 2 if isinstance(leaves[0], SettingsError) else 1)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
