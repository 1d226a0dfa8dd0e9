"""What is said of the settings: enough to see which servers are meant, and nothing secret."""

import pytest

from bridge.doctor.examine import Examination, examine
from bridge.doctor.report import Finding
from bridge.settings import Settings
from tests.support.postgres import free_port


@pytest.mark.parametrize("password", ["geheim", "ge heim'geheim\\\\geheim", "geheim@geheim/geheim"])
async def test_no_password_is_shown(password: str) -> None:
    port = free_port()
    settings = Settings(
        db_host="127.0.0.1",
        db_port=port,
        db_user="me",
        db_password=password,
        use_redis_notifier=True,
        redis_url=f"redis://:geheim@127.0.0.1:{port}",
        jwt_key="geheim" * 8,
    )
    found: list[Finding] = []
    await examine(Examination(settings, ()), found.append)
    database, _, rest = found[0].text.partition(", through Redis at ")
    assert {"host=127.0.0.1", f"port={port}", "user=me", "password=***"} <= set(database.split())
    assert rest.startswith(f"redis://:***@127.0.0.1:{port}, 7 channels")
    assert [finding.level for finding in found] == ["good", "bad", "bad"]
    assert "geheim" not in f"{found}"
