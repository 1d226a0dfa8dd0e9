"""The settings: from flags, the environment and a `.env` file, checked once, refused in one line.

Every setting is one field. Its variable and its flag follow from its name, its description says what is allowed and
ends up in the refusal and in ``--help``. Units are in the names.
"""

import hashlib
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AliasGenerator, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as UnreadableSource

from bridge.errors import SettingsError
from bridge.origins import OriginPattern
from bridge.redaction import redacted

DEFAULT_CHANNELS = (
    "matchdata_change",
    "match_change",
    "scoreboard_change",
    "playclock_change",
    "gameclock_change",
    "football_event_change",
    "player_match_change",
)
OWN_CHANNELS = frozenset({"bridge_sync", "bridge_probe"})
MAX_CHANNEL_BYTES = 63
"""PostgreSQL's NAMEDATALEN - 1: a longer LISTEN would be truncated silently."""

SECRETS = frozenset({"db_password", "jwt_key"})
_UNPREFIXED = frozenset({"database_url", "db_host", "db_port", "db_user", "db_password", "db_name"}) | {
    "use_redis_notifier",
    "redis_url",
}
_URLS = frozenset({"database_url", "redis_url"})
_JWT_KEYS = ("jwt_key", "jwt_key_file", "jwks_file")
MIN_JWT_KEY_BYTES = 32
"""As long as the hash of HS256 (RFC 7518, 3.2): a shorter key can be found out from one token."""
_LONGEST_SHOWN = 120

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=65_536, le=2**62)]
"""At least one event: 8,000 bytes of payload may become 48,000 as a JSON string."""

_SECONDS = "seconds, more than 0 and at most 86400"
_BYTES = "bytes, a whole number of at least 65536"


def variable(field: str) -> str:
    """The environment variable of a field: ``port`` is ``BRIDGE_PORT``."""
    return field.upper() if field in _UNPREFIXED else f"BRIDGE_{field.upper()}"


def flag(field: str) -> str:
    """The flag of a field: ``port`` is ``--port``."""
    return "--" + field.replace("_", "-")


_KEY_VARIABLES = ", ".join(map(variable, _JWT_KEYS))


class Settings(BaseSettings):
    """All settings, frozen. Made directly it takes arguments alone; `load` reads the user's sources."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=AliasGenerator(validation_alias=variable),
        populate_by_name=True,
        case_sensitive=True,
        env_ignore_empty=True,
        env_file=".env",
        env_file_encoding="utf-8",
    )

    database_url: str | None = Field(default=None, description="a libpq URL, such as postgresql://user@host:5432/name")
    db_host: str | None = Field(default=None, description="a host name, an address or a directory of sockets")
    db_port: int = Field(default=5432, ge=1, le=65_535, description="a whole number from 1 to 65535")
    db_user: str | None = Field(default=None, description="a role of PostgreSQL")
    db_password: str | None = Field(default=None, repr=False, description="the role's password")
    db_name: str | None = Field(default=None, description="a database")
    use_redis_notifier: bool = Field(default=False, description="true or false")
    redis_url: str = Field(
        default="redis://localhost:6379", description="a URL with redis://, rediss://, unix:// or redis+sentinel://"
    )
    channels: Annotated[tuple[str, ...], NoDecode] = Field(
        default=DEFAULT_CHANNELS, description="names of at most 63 bytes, separated by commas"
    )
    host: str = Field(default="127.0.0.1", description="an address or a host name, without a port")
    port: int = Field(default=8000, ge=0, le=65_535, description="a whole number from 0 to 65535")
    redis_prefix: str = Field(default="pg_notify", description="1 to 200 printable characters without spaces or braces")
    retry_seconds: Seconds = Field(default=5.0, description=_SECONDS)
    redis_timeout_seconds: Seconds = Field(default=1.0, description=_SECONDS)
    heartbeat_timeout_seconds: Seconds = Field(default=3.0, description=_SECONDS)
    probe_seconds: Seconds = Field(default=5.0, description=_SECONDS)
    history_entries: int = Field(default=10_000, ge=1, le=10**9, description="a whole number from 1 to 1000000000")
    backlog_bytes: Bytes = Field(default=268_435_456, description=_BYTES)
    client_buffer_bytes: Bytes = Field(default=16_777_216, description=_BYTES)
    buffers_total_bytes: Bytes = Field(default=536_870_912, description=_BYTES)
    slow_client: Literal["disconnect", "gap"] = Field(default="disconnect", description="disconnect or gap")
    max_clients: int = Field(default=10_000, ge=1, le=10**7, description="a whole number from 1 to 10000000")
    auth: Literal["none", "jwt"] | None = Field(default=None, description="none or jwt")
    jwt_key: str | None = Field(default=None, repr=False, description="a secret of at least 32 bytes, for HS256")
    jwt_key_file: str | None = Field(default=None, description="a path: a public key in PEM, for RS256, ES256 or EdDSA")
    jwks_file: str | None = Field(default=None, description="a path: a JSON Web Key Set, for RS256, ES256 and EdDSA")
    jwt_audience: str | None = Field(default=None, description="a text, the aud that tokens must have")
    jwt_issuer: str | None = Field(default=None, description="a text, the iss that tokens must have")
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="origins such as https://*.example.com, separated by commas"
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(), description="addresses or networks such as 10.0.0.0/8, separated by commas"
    )
    drain_seconds: float = Field(
        default=10.0, ge=0, le=86_400, allow_inf_nan=False, description="seconds, from 0 to 86400"
    )
    tls_cert: str | None = Field(default=None, description="a path")
    tls_key: str | None = Field(default=None, description="a path")
    log_format: Literal["text", "json"] = Field(default="text", description="text or json")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="debug, info, warning, error or critical"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _stripped(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("it is not valid UTF-8 text, or holds a NUL")
        if info.field_name in SECRETS:
            return value
        optional = cls.model_fields[str(info.field_name)].default is None
        return value.strip() or (None if optional else "")

    @field_validator("slow_client", "auth", "log_format", "log_level", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _libpq(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "postgres://")) and "=" not in value:
            raise ValueError
        try:
            ports = str(conninfo_to_dict(value or "").get("port", ""))
        except ProgrammingError as error:  # its text may quote a part of the password
            raise ValueError("libpq cannot read it") from error
        if any(port and not (port.isdecimal() and 1 <= int(port) <= 65_535) for port in ports.split(",")):
            raise ValueError("its port is no whole number from 1 to 65535")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        if value.startswith("redis+sentinel://"):
            return value  # several hosts are more than `urlsplit` can read
        try:
            parts = urlsplit(value)
        except ValueError as error:  # its text may quote a part of the password
            raise ValueError("it cannot be read; special characters in the password are percent-encoded") from error
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError
        if parts.scheme == "unix" and not parts.path:
            raise ValueError("a unix:// URL needs the socket's path")
        try:
            _ = parts.port
        except ValueError as error:
            raise ValueError("its port is no whole number from 0 to 65535") from error
        return value

    @field_validator("jwt_key")
    @classmethod
    def _key(cls, value: str | None) -> str | None:
        if value is not None and len(value.encode()) < MIN_JWT_KEY_BYTES:
            raise ValueError(f"it has fewer than {MIN_JWT_KEY_BYTES} bytes, which can be guessed from one token")
        return value

    @field_validator("channels", "allowed_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            value = tuple(name.strip() for name in value.split(",") if name.strip())
        return tuple(map(ip_network, value)) if info.field_name == "trusted_proxies" else value

    @field_validator("channels")
    @classmethod
    def _channels(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("at least one channel is needed")
        for name in names:
            if problem := channel_problem(name):
                raise ValueError(problem)
            if name in OWN_CHANNELS:
                raise ValueError("the bridge itself uses that channel")
        return tuple(dict.fromkeys(names))

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            OriginPattern.parse(pattern)  # raises ValueError
        return patterns

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        if not bare or not bare.isprintable() or any(character in " /[]@?#*" for character in bare):
            raise ValueError
        if ":" in bare:
            ip_address(bare.partition("%")[0])  # raises ValueError
        return bare

    @field_validator("redis_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if not 1 <= len(value) <= 200 or not value.isprintable() or any(c in value for c in " {}"):
            raise ValueError
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.buffers_total_bytes < self.client_buffer_bytes:
            raise _Refused("buffers_total_bytes", f"is too small: give at least {variable('client_buffer_bytes')}")
        if len(keys := [field for field in _JWT_KEYS if getattr(self, field) is not None]) > 1:
            raise _Refused(keys[1], f"cannot be used together with {variable(keys[0])}: give one of them")
        for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
            if getattr(self, one) is not None and getattr(self, other) is None:
                raise _Refused(one, f"needs {variable(other)} beside it")
        return self

    @property
    def authenticates(self) -> bool:
        """Whether clients need a token."""
        return self.auth == "jwt" or (self.auth is None and self.has_jwt_key)

    @property
    def has_jwt_key(self) -> bool:
        """Whether a key for tokens is given, in whichever way."""
        return any(getattr(self, field) is not None for field in _JWT_KEYS)

    @property
    def embedded(self) -> bool:
        """Whether no database is named, so that the bridge brings its own servers."""
        return self.database_url is None and self.db_host is None

    @property
    def digest(self) -> str:
        """8 hex digits that name the set of channels, whatever their order."""
        return hashlib.sha256("\0".join(sorted(self.channels)).encode()).hexdigest()[:8]

    @property
    def loopback(self) -> bool:
        """Whether `host` can only be reached from this machine."""
        try:
            return ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return self.host.lower().rstrip(".") == "localhost"

    def conninfo(self) -> str:
        """What libpq takes: `DATABASE_URL`, else what the `DB_*` settings say. Only where not `embedded`."""
        if self.database_url is not None:
            return self.database_url
        return make_conninfo(
            host=self.db_host, port=self.db_port, user=self.db_user, password=self.db_password, dbname=self.db_name
        )


class _UserSettings(Settings):
    """The same, from the sources that users write: arguments (flags), the environment, a `.env` file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, dotenv_settings)


class _Refused(ValueError):
    """A value that does not go together with others."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def load(
    flags: Mapping[str, str] | None = None,
    *,
    default_port: int = 8000,
    serves_clients: bool = False,
    name: Callable[[str], str] = flag,
) -> Settings:
    """The user's settings: flags (by field name) over the environment over `.env` in the working directory.

    `name` is what the user calls a flag. `serves_clients` also refuses what concerns those who serve alone:
    authentication without a key, and an address that others can reach without authentication, unless that is turned
    off explicitly.
    Raises SettingsError, one line that names the setting as the user wrote it.
    """
    flags = flags or {}
    arguments: dict[str, Any] = {variable(field): value for field, value in flags.items()}
    try:
        settings: Settings = _UserSettings(**arguments)
    except ValidationError as error:
        raise _refusal(error, flags, name) from None
    except (OSError, UnicodeDecodeError, UnreadableSource) as error:
        raise SettingsError(f".env cannot be read: {' '.join(str(error).split())}") from None
    if "port" not in settings.model_fields_set and settings.port != default_port:
        settings = settings.model_copy(update={"port": default_port})
    if serves_clients:
        _check_authentication(settings, flags)
    return settings


def channel_problem(name: str) -> str | None:
    """Why PostgreSQL could not LISTEN to a channel of this name, or None."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "a channel's name is valid Unicode"
    if not name or "\0" in name:
        return "a channel's name is not empty and holds no NUL"
    if size > MAX_CHANNEL_BYTES:
        return f"a channel's name has at most {MAX_CHANNEL_BYTES} bytes, and {_shown('', name)} has {size}"
    return None


def _check_authentication(settings: Settings, flags: Mapping[str, str]) -> None:
    if settings.authenticates and not settings.has_jwt_key:
        raise SettingsError(f"{_written('auth', flags)}=jwt needs a key: set one of {_KEY_VARIABLES}")
    if settings.auth is None and not settings.authenticates and not settings.loopback:
        raise SettingsError(
            f"{_written('host', flags)}={settings.host} can be reached by others, and there is no authentication; "
            f"set one of {_KEY_VARIABLES}, use a loopback address, or set BRIDGE_AUTH=none to serve everybody who can "
            "connect"
        )


def _refusal(error: ValidationError, flags: Mapping[str, str], named: Callable[[str], str]) -> SettingsError:
    """The first thing that is wrong, in one line."""
    wrong = error.errors(include_url=False)[0]
    cause = wrong.get("ctx", {}).get("error")
    fields = {variable(field): field for field in Settings.model_fields}
    location = str(wrong["loc"][0]) if wrong["loc"] else ""
    field = cause.field if isinstance(cause, _Refused) else fields.get(location, location)
    given = flags.get(field, wrong["input"])
    allowed = Settings.model_fields[field].description
    reason = str(cause) if isinstance(cause, ValueError) else ""
    name = named(field) if field in flags else variable(field)
    if isinstance(cause, _Refused):
        return SettingsError(f"{name} {reason}")
    shown = "the value" if field in SECRETS else _shown(field, str(given))
    return SettingsError(f"{name}: {shown} is not allowed{f': {reason}' if reason else f'; give {allowed}'}")


def _written(field: str, flags: Mapping[str, str]) -> str:
    return flag(field) if field in flags else variable(field)


def _shown(field: str, value: str) -> str:
    text = redacted(value) if field in _URLS else value
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")
