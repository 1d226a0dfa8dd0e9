"""The answers to plain HTTP requests: how the process is, for people and for machines."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol

import msgspec

from bridge.server.http import Request, Response, refuse
from bridge.server.javascript import NAME, TYPES_NAME, client_script, client_types
from bridge.server.page import page
from bridge.telemetry import METRICS_CONTENT_TYPE, Metrics

METHODS = ("GET", "HEAD")

Json = dict[str, object]
Endpoint = Callable[[Request], Response]
Whole = Literal["status", "metrics"]
Ask = Callable[[Whole], Awaitable[bytes | None]]
"""What all processes of a pod say together; None where that cannot be had now."""

_WHOLE: Mapping[str, tuple[Whole, bytes]] = {
    "/status": ("status", b"application/json"),
    "/metrics": ("metrics", METRICS_CONTENT_TYPE.encode()),
}


class HealthSource(Protocol):
    """What the server asks of the process that it runs in."""

    def health(self) -> Json: ...
    def ready(self) -> bool: ...
    def status(self) -> Json: ...


def endpoints(
    health: HealthSource, metrics: Metrics, observe: Callable[[], None], *, with_page: bool
) -> Mapping[str, Endpoint]:
    """Each path and how to answer it; `observe` brings the gauges up to date."""

    def ready(_: Request) -> Response:
        is_ready = health.ready()
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    def scrape(_: Request) -> Response:
        observe()
        return Response(200, metrics.text(), METRICS_CONTENT_TYPE.encode())

    return {
        **({"/": page, f"/{NAME}": client_script, f"/{TYPES_NAME}": client_types} if with_page else {}),
        "/health": lambda _: _json(health.health()),
        "/ready": ready,
        "/status": lambda _: _json(health.status()),
        "/metrics": scrape,
    }


def concerns_pod(request: Request) -> bool:
    """Whether all processes of a pod have to be asked for the answer."""
    return request.path in _WHOLE and request.method in METHODS


async def answer_for_pod(request: Request, ask: Ask, paths: Mapping[str, Endpoint]) -> Response:
    """The answer to a request that `concerns_pod`.

    Where the others cannot be asked, /status is of this process alone; but counters of one process after those of all
    would look as if they had begun anew, so there are none.
    """
    what, content_type = _WHOLE[request.path]
    body = await ask(what)
    if body is not None:
        return Response(200, body, content_type)
    if what == "metrics":
        return refuse(503, "the other processes of this pod do not answer now; ask again")
    return answer(request, paths)


def answer(request: Request, paths: Mapping[str, Endpoint]) -> Response:
    """The answer to a request for one of these paths, or for none of them."""
    endpoint = paths.get(request.path)
    if endpoint is None:
        return refuse(404, "there is nothing at this path")
    if request.method not in METHODS:
        return refuse(405, "only GET and HEAD are allowed here", (b"Allow", b"GET, HEAD"))
    return endpoint(request)


def _json(body: Json, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(body), b"application/json")
