"""Connection URLs without their passwords, and texts without tokens, for logs and refusals."""

import re

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USER_INFO = re.compile(r"(://[^:/?#@]*:).*@")
_QUERY = re.compile(r"([?&](?:ssl_?|sentinel_)?password=)[^&#]*", re.IGNORECASE)
_KEYWORD = re.compile(r"(\b(?:ssl)?password\s*=\s*)('(?:\\.|[^'\\])*'?|(?:\\.|[^\s\\])+)", re.IGNORECASE)

_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){0,2}|((?:\btoken=|\bbearer[ .]))[^\s&\"'\\,;]+", re.I)


def redacted(url: str) -> str:
    """A connection URL, or a libpq string of keywords, with ``***`` for its passwords.

    Takes what is malformed too, and then hides rather more than too little.
    """
    if _URL.match(url):
        return _USER_INFO.sub(r"\1***@", _QUERY.sub(r"\1***", url))
    return _KEYWORD.sub(r"\1***", url)


def without_tokens(text: str) -> str:
    """A text with ``***`` for what looks like a JWT, or stands where a token is given."""
    return _TOKEN.sub(r"\1***", text)
