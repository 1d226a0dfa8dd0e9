"""Random faults on real processes for so many seconds, with the oracle as judge.

    python -m tests.chaos 60 [--seed 7] [--single] [--redis valkey] [--per-second 300]

With --single there is one failure at a time, the next one when all is well again, and then no gap may be final.

Two listeners, two workers, one process that is both, a pod of several and an application with the endpoints in it, each
behind proxies of its own. Prints every
fault with its time, then what was committed and delivered, and every promise that was broken. The seed replays the
faults, not what the machine did meanwhile. Ends with 1 if anything was broken, and then keeps all logs.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.faults import draw, draw_single
from tests.chaos.world import World, world
from tests.support import redis as rd

SHOWN = 40
REST_SECONDS = 2.5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", type=float, nargs="?", default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--per-second", type=float, default=300.0)
    parser.add_argument("--redis", choices=[each.name for each in rd.BINARIES], default=rd.BINARIES[0].name)
    parser.add_argument("--single", action="store_true")
    options = parser.parse_args()
    binary = next(each for each in rd.BINARIES if each.name == options.redis)
    directory = Path(tempfile.mkdtemp(prefix=f"chaos-{options.seed}-"))
    chance = random.Random(options.seed)
    print(f"{options.seconds:g} seconds of faults, seed {options.seed}, {binary.name}, logs in {directory}", flush=True)
    with world(directory, chance, binary, options.per_second) as running:
        began = time.time()
        faults = disturb(running, chance, began, options.seconds, single=options.single)
        running.calm_down()
        broken = running.verdict()
        if options.single:
            broken += [f"one failure at a time, and yet a final gap: {gap}" for gap in final_gaps(running)]
        print(report(running, faults, broken, began), flush=True)
        if broken:
            keep(running, directory)
            print(f"logs and messages are kept in {directory}; try again with --seed {options.seed}")
            return 1
    shutil.rmtree(directory)
    return 0


def disturb(running: World, chance: random.Random, began: float, seconds: float, *, single: bool) -> int:
    """One round of faults after the other; how many there were."""
    count = 0
    while time.time() - began < seconds:
        faults = draw_single(running, chance) if single else draw(running, chance)
        lasting = chance.uniform(0.0, min(fault.longest_seconds for fault in faults)) * chance.random()
        at = time.time() - began
        for fault in faults:
            fault.begin()
        time.sleep(lasting)
        for fault in reversed(faults):
            fault.end()
        count += len(faults)
        what = " and ".join(fault.what for fault in faults)
        print(f"{at:8.3f} s  {what}, for {time.time() - began - at:.3f} s", flush=True)
        time.sleep(chance.uniform(0.0, REST_SECONDS))
        running.check_connections()
        running.tend()
        if single:
            running.wait_until_well()
    return count


def final_gaps(running: World) -> list[str]:
    """Each with the time and the client that was told."""
    return [
        f"{seat.name}, {arrival.at:.3f}: {arrival.message}"
        for seat in running.seats
        for arrival in seat.client.final_gaps
    ]


def report(running: World, faults: int, broken: list[str], began: float) -> str:
    """The counts, and what was broken with the time of the first notification that it names."""
    messages = [message for seat in running.seats for message in seat.client.messages]
    events = [message for message in messages if message["type"] == "notification"]
    gaps = [message for message in messages if message["type"] == "gap"]
    final = len(final_gaps(running))
    counts = {
        "faults": faults,
        "committed": len(running.writer.committed),
        "clients": len(running.seats),
        "delivered": len(events),
        "late": sum(bool(event.get("late")) for event in events),
        "pending gaps": len(gaps) - final,
        "final gaps": final,
        "announced as lost": running.announced_as_lost() if not broken else "?",
        "broken promises": len(broken),
    }
    lines = [", ".join(f"{name} {count}" for name, count in counts.items())]
    if not broken:
        lines.append("lost silently 0, twice 0, order broken 0")
    sent = list(running.writer.committed.values())
    for text in broken[:SHOWN]:
        named = re.search(r"#(\d+)", text)
        lines.append(f"  {f'[{sent[int(named[1])] - began:.3f} s] ' if named else ''}{text}")
    return "\n".join(lines)


def keep(running: World, directory: Path) -> None:
    """Write down what was committed, and what every client received, with times."""
    with (directory / "committed").open("w") as file:
        file.writelines(f"{at:.6f} {number}\n" for number, at in running.writer.committed.items())
    for number, seat in enumerate(running.seats):
        with (directory / f"client-{number}-of-{seat.name}").open("w") as file:
            file.writelines(f"{arrival.at:.6f} {json.dumps(arrival.message)}\n" for arrival in seat.client.arrivals)


if __name__ == "__main__":
    sys.exit(main())
