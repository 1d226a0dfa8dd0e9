"""The supervisor: starts the children, starts them again when they die, and ends all of them in order.

    supervise ── keep(listener) ── a process, and what it says
       │    └─── keep(worker 1 … N)
       ├──────── collector: asks all of them every two seconds
       └──────── signals

| when | then |
|---|---|
| a child ends before all were ready for the first time | everything ends with its error |
| a child ends later | an error is logged, and it is started again: at once, or later where it lived shortly |
| a child cannot be started again (memory, descriptors) | the others go on, and it is tried again |
| SIGHUP | all read certificate and keys again |
| SIGTERM, SIGINT | all workers drain together; when the last has ended, the listener ends; then the supervisor |
| a second one | all end at once |
| a child does not end in time | it is killed |
"""

import os
import random
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import trio

from bridge.core.backoff import Backoff
from bridge.errors import BridgeError, SettingsError
from bridge.pod.assignment import Assignment
from bridge.pod.charge import Charge, Ended, NotStartedError
from bridge.pod.collector import Collector
from bridge.pod.control import Kind
from bridge.pod.table import Table, new_table
from bridge.server.listener import open_listeners
from bridge.settings import Settings, variable
from bridge.signals import received
from bridge.telemetry import error_text, fields, log

LASTING_SECONDS = 10.0
"""A child that lived for so long is started again at once."""
END_SECONDS = 3.0
"""What a child that ends may take, beyond the time for draining."""
LAST_SECONDS = 2.0
"""As in `bridge.server.drain`: for clients to answer their close frame."""
_LONGEST_DIRECTORY = 107 - len("/notify-bridge-12345678/listener.sock")
"""Bytes: a Unix socket's path has 107 at most."""


def for_workers(settings: Settings, workers: int) -> Settings:
    """The settings of each of so many workers. Raises SettingsError where there are not enough bytes for all."""
    share = settings.buffers_total_bytes // workers
    if share < settings.client_buffer_bytes:
        raise SettingsError(
            f"{variable('buffers_total_bytes')} is too small for --workers={workers}: each gets {share} bytes, fewer "
            f"than {variable('client_buffer_bytes')}; give at least {workers * settings.client_buffer_bytes}"
        )
    return settings.model_copy(update={"buffers_total_bytes": share})


async def supervise(
    settings: Settings,
    *,
    workers: int,
    with_listener: bool,
    embedded: bool,
    on_listening: Callable[[str], None],
) -> None:
    """Serve with so many workers until SIGTERM or SIGINT; then drain, end everything in order and return.

    `on_listening` is called once with the URL, when all workers accept connections. Raises SettingsError or BridgeError
    where a child cannot begin, and BridgeError if the address cannot be bound.
    """
    worker_settings = for_workers(settings, workers)
    with ExitStack() as stack:
        signals = stack.enter_context(received(signal.SIGTERM, signal.SIGINT))
        listeners = [stack.enter_context(each) for each in await open_listeners(settings.host, settings.port)]
        table = stack.enter_context(new_table(workers))
        socket_path = stack.enter_context(_private_directory()) / "listener.sock" if with_listener else None
        assignment = partial(
            Assignment,
            control=-1,
            table=table.descriptor,
            rows=workers,
            with_listener=with_listener,
            embedded=embedded,
            pod_socket=socket_path,
            nonce=secrets.token_hex(8),
        )
        bound = tuple(each.fileno() for each in listeners)
        assignments = [
            assignment(role="worker", name=f"worker {row + 1}", settings=worker_settings, row=row, listeners=bound)
            for row in range(workers)
        ]
        if with_listener:
            first = assignment(role="listener", name="listener", settings=settings, row=-1, listeners=())
            assignments.insert(0, first)
        supervisor = Supervisor(settings, assignments, table, on_listening)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.obey, signals)
            await supervisor.run()
            nursery.cancel_scope.cancel()


class Supervisor:
    """All children, from the first start to the last end."""

    def __init__(
        self, settings: Settings, assignments: list[Assignment], table: Table, on_listening: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._table = table
        self._on_listening = on_listening
        self._listening = False
        """Whether all workers were ready, once."""
        self._may_begin = {"listener": trio.Event(), "worker": trio.Event()}
        """The listener begins first, so that its workers find it."""
        self._ending = trio.Event()
        self._limit = trio.CancelScope()
        """Bounds the time for an end that has begun."""
        self._charges = [Charge(each, [each.table, *each.listeners], self._told, self._answer) for each in assignments]
        self._rows = {each.name: each.row for each in assignments}
        self._over = {charge: trio.Event() for charge in self._charges}
        self._listener = next((each for each in self._charges if each.role == "listener"), None)
        self._workers = [each for each in self._charges if each.role == "worker"]
        self._collector = Collector(self._charges)

    async def run(self) -> None:
        """Keep all running; return when an end that was asked for has come. Cancelling kills them."""
        async with trio.open_nursery() as nursery:
            for charge in self._charges:
                nursery.start_soon(self._keep, charge)
            nursery.start_soon(self._collector.run)
            self._may_begin["listener" if self._listener else "worker"].set()
            await self._ending.wait()
            await self._end(self._workers, "drain", self._settings.drain_seconds + LAST_SECONDS + END_SECONDS)
            await self._end([self._listener] if self._listener else [], "end", END_SECONDS)
            nursery.cancel_scope.cancel()

    async def obey(self, signals: AsyncIterator[int]) -> None:
        """Do what signals ask for. Never returns."""
        async for number in signals:
            if number == signal.SIGHUP:
                log.info("Received SIGHUP: certificate and keys are read again, where there are any")
                self._tell_all("reload")
                continue
            name = signal.Signals(number).name
            log.info("Received %s, ending", name, extra=fields(signal=name))
            if self._ending.is_set():
                self._tell_all("end")
                self._limit.deadline = min(self._limit.deadline, trio.current_time() + END_SECONDS)
            self._ending.set()

    async def _keep(self, charge: Charge) -> None:
        """Run one child, life after life. Raises what it could not begin for, as long as nobody was served."""
        backoff = Backoff(self._settings.retry_seconds)
        try:
            while not self._ending.is_set():
                began = trio.current_time()
                try:
                    ended = await charge.live(self._may_begin[charge.role])
                except NotStartedError as error:
                    if not self._listening:
                        raise
                    delay = backoff.next(random.random())
                    log.error("%s; it is tried again in %.1f seconds", error, delay)
                    with trio.move_on_after(delay):
                        await self._ending.wait()
                    continue
                self._gone(charge)
                if self._ending.is_set():
                    return
                if not self._listening:
                    raise ended.error or BridgeError(f"{charge.name} {ended} before all were ready; see its log")
                self._collector.bury(charge)
                if trio.current_time() - began >= LASTING_SECONDS:
                    backoff.reset()
                    delay = 0.0
                else:
                    delay = backoff.next(random.random())
                _complain(charge, ended, delay)
                with trio.move_on_after(delay):
                    await self._ending.wait()
        finally:
            self._over[charge].set()

    async def _end(self, charges: Sequence[Charge], how: Kind, seconds: float) -> None:
        """End these within so many seconds; what has not begun to work, and what takes longer, is killed."""
        for charge in charges:
            if charge.ready.is_set():
                charge.tell(how)
            else:
                charge.kill()
        with trio.CancelScope(deadline=trio.current_time() + seconds) as self._limit:
            for charge in charges:
                await self._over[charge].wait()
        for charge in charges:
            if not self._over[charge].is_set():
                log.error("%s (pid %s) did not end in time and is killed", charge.name, charge.pid)
                charge.kill()
                await self._over[charge].wait()  # a killed process ends

    def _tell_all(self, kind: Kind) -> None:
        for charge in self._charges:
            charge.tell(kind)

    def _told(self, charge: Charge, kind: Kind, body: bytes) -> None:
        """A child told something."""
        if kind == "works":
            for worker in self._workers:
                worker.tell("works", body)
        elif kind == "ready":
            self._may_begin["worker"].set()
            if charge.role == "worker" and self._listener is not None:
                charge.tell("works", b"1" if self._listener.works else b"")
            all_ready = all(each.ready.is_set() for each in self._charges)
            if all_ready and not self._listening and not self._ending.is_set():
                self._listening = True
                self._on_listening(self._workers[0].url)

    def _gone(self, charge: Charge) -> None:
        """A child has ended: nobody reckons with it."""
        if charge.role == "worker":
            self._table.clear(self._rows[charge.name])
        else:
            self._told(charge, "works", b"")

    async def _answer(self, kind: Kind) -> bytes:
        """A worker asks for what all say."""
        return await (self._collector.metrics() if kind == "metrics" else self._collector.status())


def _complain(charge: Charge, ended: Ended, delay: float) -> None:
    charge.restarts += 1
    log.error(
        "%s (pid %d) %s%s; it is started again %s",
        charge.name,
        ended.pid,
        ended,
        f": {error_text(ended.error)}" if ended.error else "",
        f"in {delay:.1f} seconds" if delay else "at once",
        extra=fields(process=charge.name, restarts=charge.restarts),
    )


@contextmanager
def _private_directory() -> Iterator[Path]:
    """A fresh directory that this user alone may enter, deleted in the end; its path is short enough for a socket.

    Raises BridgeError where it cannot be made.
    """
    try:
        parent = tempfile.gettempdir()
        if len(os.fsencode(parent)) > _LONGEST_DIRECTORY:
            parent = "/tmp"  # noqa: S108 - the directory made below is private
        path = Path(tempfile.mkdtemp(prefix="notify-bridge-", dir=parent))
    except OSError as error:
        raise BridgeError(
            f"cannot make a directory for the socket of this pod: {error.strerror}; "
            f"set TMPDIR to a directory that can be written to, whose path has at most {_LONGEST_DIRECTORY} bytes"
        ) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
