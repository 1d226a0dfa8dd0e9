"""How the parameters of a connection are put together, from what the user wrote and what libpq finds elsewhere."""

from pathlib import Path

import pytest

from bridge.errors import PostgresUnusable
from bridge.links.postgres_connect import connection_parameters


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGSERVICE", "PGTARGETSESSIONATTRS", "PGAPPNAME", "PGCLIENTENCODING"):
        monkeypatch.delenv(name, raising=False)


def test_name_and_encoding_are_ours() -> None:
    found = connection_parameters("postgresql://h/d?application_name=mine&client_encoding=latin1", "bridge listener")
    assert (found["application_name"], found["client_encoding"]) == ("bridge listener", "UTF8")


@pytest.mark.parametrize(
    ("conninfo", "expected"),
    [
        ("host=h", "read-write"),
        ("host=h target_session_attrs=any", "any"),
        ("postgresql://a,b/?target_session_attrs=primary", "primary"),
    ],
)
def test_a_primary_is_wanted_unless_the_url_says_otherwise(conninfo: str, expected: str) -> None:
    assert connection_parameters(conninfo, "x")["target_session_attrs"] == expected


def test_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "a,b")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "any")
    found = connection_parameters("dbname=d", "x")
    assert (found["host"], found["target_session_attrs"]) == ("a,b", "any")


def test_the_url_wins_over_its_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    services = tmp_path / "services"
    services.write_text("[s]\nhost=a,b\nport=1,2\ntarget_session_attrs=prefer-standby\nload_balance_hosts=random\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    found = connection_parameters("service=s port=3", "x")
    assert (found["service"], found["host"], found["port"]) == ("s", "a,b", "3")
    assert (found["target_session_attrs"], found["load_balance_hosts"]) == ("prefer-standby", "random")


def test_an_abstract_socket_is_a_host() -> None:
    assert connection_parameters("host=@postgres,h", "x")["host"] == "@postgres,h"


@pytest.mark.parametrize(
    "conninfo",
    ["postgresql://me:s3c%zzret@h/d", "postgresql://me:a@s3cret@h/d", "s3c ret", "password='s3cret", "s3cret://h"],
)
def test_what_cannot_be_read_is_not_repeated(conninfo: str) -> None:
    with pytest.raises(PostgresUnusable, match="connection string of PostgreSQL") as caught:
        connection_parameters(conninfo, "x")
    assert "s3c" not in str(caught.value)
    assert caught.value.__cause__ is None
