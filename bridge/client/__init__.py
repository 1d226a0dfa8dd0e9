"""A client of a running bridge: one unbroken stream of events over as many connections as it takes."""
