"""Tokens as issuers make them, and as attackers do."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt

SECRET = "a secret of 32 bytes or rather more"


def token(claims: object, key: Any = SECRET, algorithm: str = "HS256", **header: object) -> str:
    """A token signed by PyJWT; the claims may be anything that JSON holds."""
    return jwt.PyJWS().encode(json.dumps(claims).encode(), key, algorithm, header)


def forged(header: object, claims: object, secret: bytes | None = None) -> str:
    """A token with any header. Signed by HMAC, with whatever is taken for a secret, or not at all."""
    start = f"{segment(json.dumps(header).encode())}.{segment(json.dumps(claims).encode())}"
    signature = b"" if secret is None else hmac.digest(secret, start.encode(), hashlib.sha256)
    return f"{start}.{segment(signature)}"


def segment(data: bytes) -> str:
    """base64url as tokens have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
