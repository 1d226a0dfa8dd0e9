"""From a LISTEN session to the log in Redis.

    LISTEN session --(listener.py)--> tape.py --(placement.py decides, publisher.py acts)--> log in Redis

The *tape* holds what was heard, in order: the recent history, which is in the log already, and behind it the backlog,
which is not. The *publisher* compares the log's tail with the tape and appends what follows. Every append is a
compare-and-append, so any number of relays may run against one log: one of them appends, the others follow its tail
and step in when it stops moving.
"""
