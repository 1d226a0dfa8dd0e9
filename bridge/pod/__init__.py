"""Several processes as one: a supervisor, one listener, and workers that serve clients on the same port.

    supervisor ── holds the listening sockets, starts the others, ends them in order, adds up what they say
      ├── listener ── LISTEN session -> tape -> log in Redis; and what it hears for the workers of this pod
      └── worker 1 … N ── feed -> hub -> server

A child is a process of its own (`bridge.pod.child`). It talks with the supervisor over one pair of sockets
(`bridge.pod.control`); workers see each other's numbers in shared memory (`bridge.pod.table`).
"""
