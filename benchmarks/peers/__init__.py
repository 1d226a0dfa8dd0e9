"""Other ways to the same end, each as its users would run it for speed: `python -m benchmarks.peers install`."""

from benchmarks.lib.system import System
from benchmarks.peers import nats, nchan, node, python

PEERS: tuple[System, ...] = (nats.SYSTEM, *nchan.SYSTEMS, node.SYSTEM, *python.SYSTEMS)
