"""A worker's work: the whole service without a listener, on sockets that it shares with the other workers."""

import socket
from functools import partial

import trio

from bridge.links.pod import open_pod
from bridge.pod.member import Member, taken
from bridge.pod.places import SharedPlaces
from bridge.pod.table import Table
from bridge.pod.turns import Turns
from bridge.server.endpoints import HealthSource
from bridge.service import Pod, serve
from bridge.telemetry import Metrics


async def work(member: Member) -> None:
    """Serve clients until an order ends it."""
    given = member.assignment
    table = Table(given.table, given.rows)
    table.begin(given.row)
    places = SharedPlaces(given.settings.max_clients, table, given.row)
    turns = Turns(table, given.row, places)
    listeners = [socket.socket(fileno=descriptor) for descriptor in given.listeners]

    def introduce(health: HealthSource, metrics: Metrics) -> None:
        member.observe = lambda: taken(metrics, health.status())

    pod = Pod(
        listeners=listeners,
        places=places,
        turns=turns,
        signals=member.signals,
        listener_works=lambda: member.listener_works,
        ask=member.ask,
        introduce=introduce,
        open_listener=partial(open_pod, given.pod_socket) if given.pod_socket is not None else None,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        nursery.start_soon(member.obey_signals)
        await serve(given.settings, with_listener=False, embedded=given.embedded, on_listening=member.ready, pod=pod)
        nursery.cancel_scope.cancel()
