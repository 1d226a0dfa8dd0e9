"""What a worker answers for all processes of its pod."""

import pytest

from bridge.server.endpoints import Whole, answer_for_pod
from bridge.server.http import Request, Response

OWN = Response(200, b"of this process")
PATHS = {"/status": lambda _: OWN, "/metrics": lambda _: OWN}


@pytest.mark.parametrize("path", PATHS)
async def test_what_all_say_is_the_answer(path: str) -> None:
    async def ask(what: Whole) -> bytes:
        return what.encode()

    response = await answer_for_pod(Request("GET", path, []), ask, PATHS)
    assert (response.status, response.body) == (200, path[1:].encode())


@pytest.mark.parametrize(("path", "status"), [("/status", 200), ("/metrics", 503)])
async def test_counters_of_one_process_never_stand_for_those_of_all(path: str, status: int) -> None:
    async def nobody(_: Whole) -> None:
        return None

    response = await answer_for_pod(Request("GET", path, []), nobody, PATHS)
    assert response.status == status
    assert (response.body == OWN.body) == (status == 200)
