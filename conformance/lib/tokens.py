"""Tokens by the bytes of RFC 7515 and 7519, without a library: HS256 alone."""

import base64
import hashlib
import hmac
import json

SECRET = "conformance: a secret of more than 32 bytes"


def token(key: str = SECRET, /, **claims: object) -> str:
    """A token with these claims."""
    signed = f"{_segment({'alg': 'HS256', 'typ': 'JWT'})}.{_segment(claims)}"
    return f"{signed}.{_base64(hmac.digest(key.encode(), signed.encode(), hashlib.sha256))}"


def unsigned(**claims: object) -> str:
    """A token that nobody signed."""
    return f"{_segment({'alg': 'none', 'typ': 'JWT'})}.{_segment(claims)}."


def _segment(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
