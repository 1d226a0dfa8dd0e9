"""Everything that can go wrong in a simulated world, one method a fault; what lasts ends by itself."""

from collections.abc import Callable
from typing import Any

import anyio

from tests.sim.plan import Step
from tests.sim.process import Process
from tests.sim.redis_data import Stream
from tests.sim.wire import USUAL_DELAY_SECONDS, Path, Wire
from tests.sim.world import ALL_CHANNELS, World

KEYS = (b":log", b":meta", b":terms", b":beat")
OUT_OF_MEMORY = "OOM command not allowed when used memory > 'maxmemory'."
READ_ONLY = "READONLY You can't write against a read only replica."
BIG_BYTES = 4000
AGAIN_SECONDS = 0.3


class Faults:
    """`do` lets a step of a plan happen. `healed_at` is when the last of them ends."""

    def __init__(self, world: World) -> None:
        self.healed_at = 0.0
        self._world = world
        self._ending: set[Process] = set()
        """Those that were killed or told to end, and have not been started again."""

    def do(self, step: Step) -> None:
        getattr(self, f"_{step.do}")(step)

    def _later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        until = anyio.current_time() + seconds
        self.healed_at = max(self.healed_at, until)
        self._world.agenda.at(until, act, *arguments)

    # processes and clients

    def _process(self, step: Step) -> Process:
        processes = self._world.processes
        return processes[step.who % len(processes)]

    def _pause(self, step: Step) -> None:
        process = self._process(step)
        process.freezer.pause()
        self._later(step.seconds, process.freezer.resume)

    def _kill(self, step: Step) -> None:
        process = self._process(step)
        if process.running:
            process.kill()
            self._gone(process, step)

    def _end(self, step: Step) -> None:
        process = self._process(step)
        if process.running:
            process.end()
            self._gone(process, step)

    def _gone(self, process: Process, step: Step) -> None:
        if process not in self._ending:
            self._ending.add(process)
            self._later(step.seconds, self._start_again, process)

    def _start_again(self, process: Process) -> None:
        if process.running:  # it takes its time to end
            self._later(AGAIN_SECONDS, self._start_again, process)
        elif self._world.tasks is not None:
            self._ending.discard(process)
            process.start(self._world.tasks)

    def _join(self, step: Step) -> None:
        self._process(step).connect_client(frozenset(ALL_CHANNELS[: step.much % 3]))

    def _leave(self, step: Step) -> None:
        self._process(step).disconnect_client(step.much)

    # the network

    def _block_redis(self, step: Step) -> None:
        self._block(step, self._process(step).to_redis)

    def _block_postgres(self, step: Step) -> None:
        self._block(step, self._process(step).to_postgres)

    def _block(self, step: Step, path: Path) -> None:
        path.block()
        self._later(step.seconds, path.unblock)

    def _slow_redis(self, step: Step) -> None:
        self._slow(step, self._process(step).to_redis)

    def _slow_postgres(self, step: Step) -> None:
        self._slow(step, self._process(step).to_postgres)

    def _slow(self, step: Step, path: Path) -> None:
        path.delay_seconds = 0.01 * (1 + step.much)
        self._later(step.seconds, setattr, path, "delay_seconds", USUAL_DELAY_SECONDS)

    def _block_pod(self, step: Step) -> None:
        self._block(step, self._process(step).to_pod)

    def _slow_pod(self, step: Step) -> None:
        self._slow(step, self._process(step).to_pod)

    def _pod_cut(self, step: Step) -> None:
        if wires := self._pod_wires():
            wires[step.who % len(wires)].cut()

    def _pod_silent(self, step: Step) -> None:
        if wires := self._pod_wires():
            wires[step.who % len(wires)].silent = True

    def _pod_wires(self) -> list[Wire]:
        return [wire for wire in self._world.pod_wires if not wire.closed]

    def _session_terminated(self, step: Step) -> None:
        if connections := list(self._world.postgres.connections):
            self._world.postgres.terminate(connections[step.who % len(connections)])

    def _session_cut(self, step: Step) -> None:
        if connections := list(self._world.postgres.connections):
            connections[step.who % len(connections)].cut()

    def _session_silent(self, step: Step) -> None:
        if connections := list(self._world.postgres.connections):
            connections[step.who % len(connections)].silent = True

    def _wire_cut(self, step: Step) -> None:
        if connections := list(self._world.redis.connections):
            connections[step.who % len(connections)].wire.cut()

    def _wire_silent(self, step: Step) -> None:
        if connections := list(self._world.redis.connections):
            connections[step.who % len(connections)].wire.silent = True

    def _wire_deaf(self, step: Step) -> None:
        if connections := [one for one in self._world.redis.connections if one.channels]:
            connections[step.who % len(connections)].deaf = True

    # PostgreSQL and who uses it

    def _postgres_stall(self, step: Step) -> None:
        self._world.postgres.stall()
        self._later(step.seconds, self._world.postgres.resume)

    def _postgres_restart(self, step: Step) -> None:
        self._world.postgres.stop()
        self._later(step.seconds, self._world.postgres.start)

    def _postgres_refuse(self, step: Step) -> None:
        self._world.postgres.refusing = True
        self._later(step.seconds, setattr, self._world.postgres, "refusing", False)

    def _skew(self, step: Step) -> None:
        self._world.postgres.skew_seconds = (step.much - 20) * (1 + step.who)

    def _burst(self, step: Step) -> None:
        self._world.commit(step.much)

    def _big_burst(self, step: Step) -> None:
        self._world.commit(step.much, BIG_BYTES)

    def _garbage(self, step: Step) -> None:
        junk = (b"", b"{", b"\xff", b'{"term":1,"nonce":"x","digest":"y","role":"z","prefix":"p"}', b"[[[")
        self._world.postgres.commit([("bridge_sync", junk[step.who % len(junk)])], lambda: None)

    # Redis

    def _redis_stall(self, step: Step) -> None:
        self._world.redis.stall()
        self._later(step.seconds, self._world.redis.resume)

    def _redis_restart(self, step: Step) -> None:
        """It comes back with everything, or without its newest entries, or with nothing."""
        redis = self._world.redis
        redis.stop()
        if step.who % 3 == 0:
            redis.data.keys.clear()
        elif step.who % 3 == 1:
            self._forget_newest(step)
        self._later(step.seconds, redis.start)

    def _redis_oom(self, step: Step) -> None:
        self._refuse_writes(step, OUT_OF_MEMORY)

    def _redis_readonly(self, step: Step) -> None:
        self._refuse_writes(step, READ_ONLY)

    def _refuse_writes(self, step: Step, error: str) -> None:
        self._world.redis.data.refusal = error
        self._later(step.seconds, setattr, self._world.redis.data, "refusal", "")

    def _redis_loading(self, step: Step) -> None:
        self._world.redis.data.loading = True
        self._later(step.seconds, setattr, self._world.redis.data, "loading", False)

    def _flush(self, _: Step) -> None:
        self._world.redis.data.keys.clear()

    def _evict(self, step: Step) -> None:
        keys = self._world.redis.data.keys
        for key in [key for key in keys if key.endswith(KEYS[step.who % len(KEYS)])]:
            del keys[key]

    def _trim(self, step: Step) -> None:
        for stream in self._streams():
            stream.trim(step.much)

    def _forget_newest(self, step: Step) -> None:
        for stream in self._streams():
            stream.forget_newest(step.much)

    def _streams(self) -> list[Stream]:
        return self._world.redis.data.streams()
