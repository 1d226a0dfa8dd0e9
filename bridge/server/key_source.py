"""Where the keys come from: a setting, or a file that is read again when it has changed.

A file that has become unusable changes nothing: the keys from before stay, and an error is logged, once for each state
of the file. Files are small, and are looked at once a second at most, so all of it is done without waiting.
"""

import os
import stat
from collections.abc import Callable
from typing import Protocol

from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

from bridge.errors import SettingsError
from bridge.server.keys import Key, read_jwks, read_pem
from bridge.settings import Settings, variable
from bridge.telemetry import log

LOOK_SECONDS = 1.0
MAX_FILE_BYTES = 1 << 20

_Signature = tuple[int, ...] | None


class KeySource(Protocol):
    """What has keys."""

    def keys(self) -> tuple[Key, ...]: ...
    def reload(self) -> None: ...


class FixedKeys:
    """Keys that never change."""

    def __init__(self, *keys: Key) -> None:
        self._keys = keys

    def keys(self) -> tuple[Key, ...]:
        """The keys."""
        return self._keys

    def reload(self) -> None:
        """There is nothing to read again."""


class KeyFile:
    """The keys of a file. `setting` is its variable, for messages; `clock` gives seconds and never goes back.

    Raises SettingsError where the file cannot be used now.
    """

    def __init__(
        self, setting: str, path: str, read: Callable[[bytes], tuple[Key, ...]], clock: Callable[[], float]
    ) -> None:
        self._setting = setting
        self._path = path
        self._read = read
        self._clock = clock
        self._next_look = clock() + LOOK_SECONDS
        self._signature = self._current_signature()
        try:
            self._keys = self._load()
        except _Unusable as error:
            raise SettingsError(f"{setting}: {path!r} cannot be used: {error}") from None

    def keys(self) -> tuple[Key, ...]:
        """The newest keys that could be read. Never raises."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            signature = self._current_signature()
            if signature != self._signature:
                self._signature = signature
                self._refresh()
        return self._keys

    def reload(self) -> None:
        """Read the file again, changed or not. Never raises."""
        self._signature = self._current_signature()
        self._refresh()

    def _refresh(self) -> None:
        try:
            self._keys = self._load()
        except _Unusable as error:
            log.error("%s: %r cannot be used, the keys from before stay: %s", self._setting, self._path, error)
        else:
            log.info("%s: %d keys were read again from %r", self._setting, len(self._keys), self._path)

    def _current_signature(self) -> _Signature:
        """What tells one state of the file from another. Taken before reading, so that no change goes unseen."""
        try:
            about = os.stat(self._path)
        except (OSError, ValueError):
            return None
        return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)

    def _load(self) -> tuple[Key, ...]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise _Unusable("it is no regular file")
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read(MAX_FILE_BYTES + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _Unusable(error.strerror or type(error).__name__) from None
        if len(data) > MAX_FILE_BYTES:
            raise _Unusable(f"it is longer than {MAX_FILE_BYTES} bytes")
        try:
            return self._read(data)
        except ValueError as error:
            raise _Unusable(str(error)) from None


class _Unusable(Exception):
    """A file that gives no keys, and why."""


def key_source(settings: Settings, clock: Callable[[], float]) -> KeySource:
    """The source that the settings name; there is one. Raises SettingsError where its file cannot be used."""
    if settings.jwt_key is not None:
        return FixedKeys(_secret(settings.jwt_key))
    if settings.jwt_key_file is not None:
        return KeyFile(variable("jwt_key_file"), settings.jwt_key_file, read_pem, clock)
    if settings.jwks_file is not None:
        return KeyFile(variable("jwks_file"), settings.jwks_file, read_jwks, clock)
    raise SettingsError(f"{variable('auth')}=jwt needs a key: set {variable('jwt_key')}")


def _secret(text: str) -> Key:
    try:
        return Key("HS256", HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(text))
    except InvalidKeyError:  # everybody may know it
        raise SettingsError(
            f"{variable('jwt_key')}: this is a key in PEM, SSH or JWK format, and no secret for HS256; write it to a "
            f"file for {variable('jwt_key_file')} or {variable('jwks_file')}"
        ) from None
