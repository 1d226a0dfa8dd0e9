"""Settings: where they come from, what is refused, and how the refusal reads."""

import hashlib
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from bridge.core.events import RESERVED_CHANNELS
from bridge.errors import SettingsError
from bridge.redaction import redacted
from bridge.settings import DEFAULT_CHANNELS, OWN_CHANNELS, Settings, channel_problem, flag, load, variable
from tests.support.cli import environment


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    kept = environment(tmp_path)
    for name in [variable(field) for field in Settings.model_fields]:
        if name not in kept:
            monkeypatch.delenv(name, raising=False)


def refusal(flags: dict[str, str] | None = None, *, serves_clients: bool = False) -> str:
    with pytest.raises(SettingsError) as caught:
        load(flags, serves_clients=serves_clients)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load()
    assert settings.embedded
    assert settings.channels == DEFAULT_CHANNELS
    assert len(settings.channels) == 7
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.redis_url == "redis://localhost:6379"
    assert not settings.use_redis_notifier
    assert (settings.backlog_bytes, settings.client_buffer_bytes, settings.buffers_total_bytes) == (2**28, 2**24, 2**29)
    assert settings.history_entries == settings.max_clients == 10_000


def test_listen_has_a_default_port_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(default_port=8001).port == 8001
    assert "port" not in load().model_fields_set
    monkeypatch.setenv("BRIDGE_PORT", "8000")
    assert load(default_port=8001).port == 8000


def test_flags_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BRIDGE_PORT=1001\nBRIDGE_REDIS_PREFIX=file\nDB_HOST=file\n")
    monkeypatch.setenv("BRIDGE_PORT", "1002")
    monkeypatch.setenv("BRIDGE_REDIS_PREFIX", "environment")
    settings = load({"port": "1003"})
    assert (settings.port, settings.redis_prefix, settings.db_host) == (1003, "environment", "file")


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields:
        monkeypatch.setenv(variable(field), "")
    assert load().model_dump() == Settings().model_dump()
    (tmp_path / ".env").write_text("BRIDGE_PORT=1001\n")
    assert load().port == 1001


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"BRIDGE_PORT=\xff\n")
    assert refusal().startswith(".env cannot be read")


def test_settings_made_directly_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_PORT", "1002")
    assert Settings(db_host="x").port == 8000


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("port", "abc", "from 0 to 65535"),
        ("port", "65536", "from 0 to 65535"),
        ("port", "-1", "from 0 to 65535"),
        ("db_port", "0", "from 1 to 65535"),
        ("retry_seconds", "0", "more than 0"),
        ("retry_seconds", "nan", "more than 0"),
        ("redis_timeout_seconds", "inf", "more than 0"),
        ("heartbeat_timeout_seconds", "-1", "more than 0"),
        ("probe_seconds", "soon", "more than 0"),
        ("drain_seconds", "-0.1", "from 0"),
        ("history_entries", "0", "from 1"),
        ("backlog_bytes", "1", "at least 65536"),
        ("client_buffer_bytes", "1.5", "at least 65536"),
        ("max_clients", "0", "from 1"),
        ("use_redis_notifier", "maybe", "true or false"),
        ("slow_client", "wait", "disconnect or gap"),
        ("auth", "basic", "none or jwt"),
        ("log_format", "xml", "text or json"),
        ("log_level", "loud", "debug, info"),
        ("host", "http://x", "without a port"),
        ("host", "127.0.0.1:80", "does not appear"),
        ("redis_prefix", "a b", "without spaces"),
        ("channels", "bridge_sync", "uses that channel"),
        ("channels", ",", "at least one"),
        ("channels", "é" * 32, "at most 63 bytes"),
        ("database_url", "mysql://localhost/x", "postgresql://"),
        ("database_url", "postgresql://localhost:port/x", "from 1 to 65535"),
        ("redis_url", "http://localhost", "redis://"),
        ("redis_url", "redis://localhost:x", "from 0 to 65535"),
        ("redis_url", "unix://", "path"),
        ("redis_url", "rediss+sentinel://h/service", "redis+sentinel://"),
        ("allowed_origins", "example.org", "https://host"),
        ("allowed_origins", "https://a.example,null", "https://host"),
        ("allowed_origins", "https://a.example/path", "without a path"),
        ("allowed_origins", "https://a.example:0", "from 1 to 65535"),
        ("trusted_proxies", "proxy.example", "does not appear to be"),
        ("trusted_proxies", "10.0.0.1/8", "has host bits set"),
    ],
)
def test_a_refusal_names_the_setting_as_written_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, field: str, value: str, allowed: str
) -> None:
    by_flag = refusal({field: value})
    assert by_flag.startswith(f"{flag(field)}: {value!r} is not allowed")
    assert allowed in by_flag
    monkeypatch.setenv(variable(field), value)
    assert refusal() == by_flag.replace(flag(field), variable(field), 1)


KEY = "k" * 32


def test_a_key_turns_authentication_on() -> None:
    assert not load().authenticates
    for field, value in (("jwt_key", KEY), ("jwt_key_file", "/key.pem"), ("jwks_file", "/keys.json")):
        assert load({field: value}).authenticates
        assert load({field: value, "auth": "jwt", "host": "0.0.0.0"}, serves_clients=True).authenticates
        assert load({field: value, "host": "0.0.0.0"}, serves_clients=True).authenticates
        assert not load({field: value, "auth": "none"}).authenticates


def test_authentication_without_a_key_is_refused_where_clients_are_served() -> None:
    assert refusal({"auth": "jwt"}, serves_clients=True).startswith("--auth=jwt needs a key: set one of BRIDGE_JWT_KEY")
    assert load({"auth": "jwt"}).authenticates


def test_a_weak_key_is_refused_and_not_shown() -> None:
    text = refusal({"jwt_key": "hunter2" * 4})
    assert text.startswith("--jwt-key: the value is not allowed: it has fewer than 32 bytes")
    assert "hunter2" not in text
    assert load({"jwt_key": "é" * 16}).authenticates
    assert "hunter2" not in repr(Settings(jwt_key="hunter2" * 5, db_password="hunter2"))


def test_settings_that_do_not_go_together() -> None:
    assert "cannot be used together with BRIDGE_JWT_KEY:" in refusal({"jwt_key": KEY, "jwks_file": "/keys.json"})
    assert refusal({"tls_cert": "/cert.pem"}) == "--tls-cert needs BRIDGE_TLS_KEY beside it"
    assert refusal({"tls_key": "/key.pem"}) == "--tls-key needs BRIDGE_TLS_CERT beside it"
    text = refusal({"client_buffer_bytes": "100000", "buffers_total_bytes": "99999"})
    assert text == "--buffers-total-bytes is too small: give at least BRIDGE_CLIENT_BUFFER_BYTES"


def test_origins_and_proxies_are_read() -> None:
    settings = load(
        {"allowed_origins": " https://a.example, http://*.b.example:*,*", "trusted_proxies": "10.0.0.1,fd00::/8"}
    )
    assert settings.allowed_origins == ("https://a.example", "http://*.b.example:*", "*")
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.1/32", "fd00::/8"]
    assert load() == load({"allowed_origins": "", "trusted_proxies": " , "})


def test_an_address_that_others_reach_needs_an_explicit_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"):
        assert load({"host": host}, serves_clients=True).loopback
    for host in ("0.0.0.0", "::", "10.1.2.3", "example.org"):
        text = refusal({"host": host}, serves_clients=True)
        assert "BRIDGE_AUTH=none" in text
        assert "BRIDGE_JWT_KEY" in text
        assert load({"host": host}).host == host
    monkeypatch.setenv("BRIDGE_AUTH", "none")
    assert load({"host": "0.0.0.0"}, serves_clients=True).auth == "none"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("db_password", "\udcff-hunter2"),
        ("database_url", "http://user:hunter2@host/x"),
        ("database_url", "password=hunter2 port=x"),
        ("redis_url", "redis://:hunter2@host:x"),
        ("redis_url", "redis://user:hunt/hunter2@host:x"),
        ("redis_url", "redis://:[hunter2]@host"),
        ("redis_url", "rediss+sentinel://:hunter2@h/service?sentinel_password=hunter2"),
    ],
)
def test_passwords_are_not_shown(field: str, value: str) -> None:
    assert "hunter2" not in refusal({field: value})


def test_channels_keep_their_order_and_lose_their_doubles() -> None:
    settings = load({"channels": "b, a,b,,A "})
    assert settings.channels == ("b", "a", "A")
    assert settings.digest == hashlib.sha256(b"A\0a\0b").hexdigest()[:8]
    assert settings.digest == Settings(channels=("A", "a", "b")).digest


def test_the_bridges_own_channels_are_the_same_everywhere() -> None:
    assert OWN_CHANNELS == RESERVED_CHANNELS


@given(st.text(min_size=1, max_size=80))
def test_a_channel_is_taken_up_to_63_bytes(name: str) -> None:
    try:
        fits = len(name.encode()) <= 63 and "\0" not in name
    except UnicodeEncodeError:
        fits = False
    assert (channel_problem(name) is None) == fits


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_the_parts_of_a_connection_survive_whatever_they_hold(text: str) -> None:
    settings = Settings(db_host="host", db_user=text.strip() or "x", db_password=text, db_name="n'\\ m")
    assert not settings.embedded
    assert conninfo_to_dict(settings.conninfo()) == {
        "host": "host",
        "port": "5432",
        "user": text.strip() or "x",
        "password": text,
        "dbname": "n'\\ m",
    }


def test_a_url_is_used_as_it_is() -> None:
    url = "postgresql://a:b@h1:5432,h2:5433/db?target_session_attrs=any"
    assert load({"database_url": url, "db_host": "other"}).conninfo() == url


def test_sentinels_are_taken_as_they_are_written() -> None:
    for url in ("redis+sentinel://h1:26379,h2:26379/service/0", "redis+sentinel://:p@[::1]:1,[::2]:2/service"):
        assert load({"redis_url": url}).redis_url == url


SECRET = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=8, max_size=20)


@given(SECRET)
def test_redaction_takes_the_password_and_leaves_the_rest(secret: str) -> None:
    assert redacted(f"postgresql://me:{secret}@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert redacted(f"redis://:{secret}@host") == "redis://:***@host"
    assert redacted(f"postgresql://host/db?password={quote(secret)}&x=1") == "postgresql://host/db?password=***&x=1"
    sentinel = f"redis+sentinel://u:{quote(secret)}@h1:1,h2:2/service"
    assert redacted(f"{sentinel}?sentinel_password={quote(secret)}") == (
        "redis+sentinel://u:***@h1:1,h2:2/service?sentinel_password=***"
    )
    assert f"={secret}" not in redacted(f"redis+sentinel://h1:1,h2:2/service?sentinel_password={secret}@")
    quoted = secret.replace("\\", "\\\\").replace("'", "\\'")
    assert redacted(f"host=h password = '{quoted}' port=1") == "host=h password = *** port=1"
    assert redacted("postgresql://me@host:5432/db") == "postgresql://me@host:5432/db"
