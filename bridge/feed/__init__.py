"""What happened in the database, as one stream of events for this process.

    log in Redis    -> log_source.py    ┐
    LISTEN session  -> direct_source.py ├-> delivery.py (ledger: each once) -> sink
    own listener    -> local_source.py  ┤
    pod's listener  -> pod_source.py    ┘

`feed.py` is the switch: the log while it is live, one of the others while it is not. A source brings events in order
and says when it is live. Sources overlap at every switch, and the delivery's ledger makes that harmless: it drops
what was delivered, marks what comes late, and announces what may be missing. The sink is a synchronous function that
takes a list of events and gaps.
"""
