"""Where Redis is, and how to get in: REDIS_URL read once, by redis-py's own parser, with redis-py's option names.

Everything that can be wrong with the URL is refused here, in one line that never shows the password. Sentinel URLs,
which redis-py does not read, are taken apart here; their login, database and options go through the same parser.
"""

import re
import ssl
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.connection import parse_url

from bridge.errors import SettingsError

_TLS_OPTIONS = frozenset(
    {
        "ssl_keyfile",
        "ssl_certfile",
        "ssl_password",
        "ssl_cert_reqs",
        "ssl_include_verify_flags",
        "ssl_exclude_verify_flags",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_check_hostname",
        "ssl_min_version",
        "ssl_ciphers",
    }
)
_TUNING_OF_REDIS_PY = frozenset(
    {
        "socket_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_read_size",
        "retry_on_timeout",
        "retry_on_error",
        "max_connections",
        "timeout",
        "health_check_interval",
        "client_name",
        "protocol",
        "legacy_responses",
        "decode_responses",
        "encoding",
        "encoding_errors",
    }
)
"""Options that an URL shared with other programs may hold: they tune redis-py's own pool, and mean nothing here."""

_SENTINEL_SCHEME = "redis+sentinel://"
_SENTINEL_PORT = 26379
_ADDRESS = re.compile(r"(?:\[([^][\s]*:[^][\s]*)\]|([^][:\s]+))(?::([0-9]{1,5}))?")
_UNREADABLE = (
    "REDIS_URL cannot be read: the port must be a number, and special characters in the user name and the password "
    "percent-encoded"
)

Address = tuple[str, int]

_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


@dataclass(frozen=True)
class RedisTarget:
    """One Redis server, one user, one database. `str()` names the place, without secrets."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """Of a Unix socket; then host and port mean nothing."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return place(self.host, self.port) if self.path is None else f"unix:{self.path}"


@dataclass(frozen=True)
class SentinelTarget:
    """Sentinels that know where the master of a service is, and how to get into it. `str()` shows no secrets."""

    sentinels: tuple[Address, ...]
    service: str
    master: RedisTarget = field(default_factory=RedisTarget)
    """User, password and database; its host and port mean nothing before the Sentinels have named them."""
    username: str | None = None
    """Of the Sentinels themselves, as the password is."""
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"the master of {self.service!r}"


def place(host: str, port: int) -> str:
    """Host and port as people write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_redis_url(url: str) -> RedisTarget | SentinelTarget:
    """Read a redis://, rediss://, unix:// or redis+sentinel:// URL.

    Raises SettingsError naming REDIS_URL; never shows the password.
    """
    if url.startswith(_SENTINEL_SCHEME):
        return _sentinel_target(url)
    options = _options(url)
    tls_options = _take_tls_options(options)
    is_tls = url.startswith("rediss://")
    if tls_options and not is_tls:
        raise SettingsError(f"REDIS_URL has {', '.join(sorted(tls_options))}, which need rediss://")
    return _target(options, _tls_context(tls_options) if is_tls else None)


def _sentinel_target(url: str) -> SentinelTarget:
    before_query, _, query = url.removeprefix(_SENTINEL_SCHEME).partition("?")
    authority, _, path = before_query.partition("/")
    login, at, hosts = authority.rpartition("@")
    sentinels = tuple(address for text in hosts.split(",") if (address := _address(text)))
    if len(sentinels) < len(hosts.split(",")) or "#" in url or "@" in path:
        raise SettingsError(_UNREADABLE)
    service, _, database = path.rstrip("/").partition("/")
    if not service or "/" in database:
        raise SettingsError(
            "REDIS_URL must end in a service, and a database if wanted: redis+sentinel://h1,h2/service/0"
        )
    options = _options(f"redis://{login}{at}localhost/{database}?{query}")
    if tls_options := _take_tls_options(options):
        raise SettingsError(f"REDIS_URL has {', '.join(sorted(tls_options))}: TLS is not supported with Sentinel")
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    if own["username"] is not None and own["password"] is None:
        raise SettingsError("REDIS_URL has sentinel_username without sentinel_password")
    return SentinelTarget(sentinels, unquote(service), replace(_target(options), host="", port=0), **own)


def _address(text: str) -> Address | None:
    """A Sentinel's host and port; None where the text is neither a name, nor an IPv4 or bracketed IPv6 address."""
    if (match := _ADDRESS.fullmatch(text)) is None:
        return None
    port = int(match[3] or _SENTINEL_PORT)
    return (match[1] or match[2], port) if 1 <= port <= 65_535 else None


def _take_tls_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options.pop(name) for name in _TLS_OPTIONS & options.keys()}


def _target(options: dict[str, Any], tls: ssl.SSLContext | None = None) -> RedisTarget:
    known = {"host", "port", "path", "db", "username", "password"}
    unknown = sorted(options.keys() - known - _TUNING_OF_REDIS_PY - {"connection_class"})
    if unknown:
        raise SettingsError(f"REDIS_URL has an option that is not supported: {', '.join(unknown)}")
    where = {name: options[name] for name in ("host", "port", "path", "username", "password") if name in options}
    return RedisTarget(**where, database=options.get("db", 0), tls=tls)


def _options(url: str) -> dict[str, Any]:
    """What redis-py makes of the URL, after the checks that it leaves out."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # the text may quote a piece of the password
        parts = None
    if parts is None or parts.fragment:
        raise SettingsError(_UNREADABLE)
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise SettingsError(f"REDIS_URL cannot be used: {error}") from None
    if parts.scheme == "unix":
        if not options.get("path"):
            raise SettingsError("REDIS_URL names no socket: unix:///path/to/redis.sock")
    elif parts.path.strip("/") and "db" not in options:
        raise SettingsError(f"REDIS_URL: the database must be a number, not {parts.path.strip('/')!r}")
    if options.get("db", 0) < 0:
        raise SettingsError("REDIS_URL: the database must be a number from 0")
    return options


def _tls_context(options: dict[str, Any]) -> ssl.SSLContext:
    """What redis-py would build from these options (they have the same names and meaning there)."""
    cert_reqs = options.get("ssl_cert_reqs", "required")
    if cert_reqs not in _CERT_REQS:
        raise SettingsError("REDIS_URL: ssl_cert_reqs must be none, optional or required")
    try:
        context = ssl.create_default_context()
        check_hostname = options.get("ssl_check_hostname")
        context.check_hostname = cert_reqs != "none" and (check_hostname is None or check_hostname)
        context.verify_mode = _CERT_REQS[cert_reqs]
        for flag in options.get("ssl_include_verify_flags", []):
            context.verify_flags |= flag
        for flag in options.get("ssl_exclude_verify_flags", []):
            context.verify_flags &= ~flag
        if "ssl_certfile" in options or "ssl_keyfile" in options:
            context.load_cert_chain(
                options.get("ssl_certfile") or options["ssl_keyfile"],
                options.get("ssl_keyfile"),
                options.get("ssl_password") or "",  # never ask on the terminal
            )
        locations = (options.get("ssl_ca_certs"), options.get("ssl_ca_path"), options.get("ssl_ca_data"))
        if any(locations):
            context.load_verify_locations(*locations)
        if "ssl_min_version" in options:
            context.minimum_version = ssl.TLSVersion(options["ssl_min_version"])
        if "ssl_ciphers" in options:
            context.set_ciphers(options["ssl_ciphers"])
    except (OSError, ValueError) as error:
        raise SettingsError(f"REDIS_URL: {_tls_files(options)} cannot be used: {error}") from None
    return context


def _tls_files(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={options[name]}" for name in sorted(options) if name != "ssl_password") or "TLS"
