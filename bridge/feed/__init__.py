"""What happened in the database, as one stream of events for this process.

    log in Redis    -> log_source.py    ┐
    LISTEN session  -> direct_source.py ├-> delivery.py (ledger: each once) -> sink
    own listener    -> local_source.py  ┘

`feed.py` runs a source for as long as it lives and opens it again. A source brings events in order, says when it is
live (from then on nothing is missed), and announces a gap where something may be missing. The sink is a synchronous
function that takes a list of events and gaps.
"""
