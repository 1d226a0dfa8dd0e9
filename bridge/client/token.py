"""The token that a client shows: one for ever, or one that a function of the user makes anew when it is needed."""

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from bridge.client.verdict import Lost
from bridge.errors import SettingsError

TOKEN_SECONDS: Final = 30.0
"""How long the user's function may take."""

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or a function, sync or async, that makes one whenever one is needed."""

_SENDABLE = re.compile(r"[\x21-\x7e]+")


class Bearer:
    """Asks for a token when there is none, and keeps it until it is refused."""

    def __init__(self, token: Token | None) -> None:
        """Raises SettingsError for a token that cannot be sent."""
        self._make = token if callable(token) else None
        self._token = None if token is None or callable(token) else _checked(token)
        self._has_renewed = False

    @property
    def renewable(self) -> bool:
        """Whether another token can be had, now that this one was refused: once in a row."""
        return self._make is not None and not self._has_renewed

    @property
    def secrets(self) -> set[str]:
        """What nobody is to see."""
        return {self._token} if self._token is not None else set()

    def renew(self) -> None:
        """Forget the token: it was refused."""
        self._token, self._has_renewed = None, True

    def accepted(self) -> None:
        """The token was good."""
        self._has_renewed = False

    async def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that show the token; none without one.

        Raises Lost where the user's function takes too long, SettingsError for what cannot be sent, and what the
        function raises.
        """
        if self._token is None and self._make is not None:
            with anyio.move_on_after(TOKEN_SECONDS):
                made = self._make()
                self._token = _checked(await made if inspect.isawaitable(made) else made)
            if self._token is None:
                raise Lost(f"the function for a token gave none within {TOKEN_SECONDS:g} s")
        return [(b"Authorization", b"Bearer " + self._token.encode())] if self._token is not None else []


def _checked(token: object) -> str:
    """Its text is in no error: somebody may have mixed up two secrets."""
    if not isinstance(token, str):
        raise SettingsError(f"token: a string is expected, not {type(token).__name__}")
    if not _SENDABLE.fullmatch(token):
        raise SettingsError("token: it cannot be sent; ASCII without blanks and line breaks is expected")
    return token
