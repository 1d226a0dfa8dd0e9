"""The pure core: no waiting, no sockets, no clock, no randomness. Time and jitter are arguments."""
