"""The keys that signatures of tokens are checked with: a secret, a public key in PEM, or a JSON Web Key Set.

Each key is for one algorithm, which follows from the kind of the key and never from what a token says of itself: so a
public key cannot be taken for a secret, and there is no key for ``none``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = ("HS256", "RS256", "ES256", "EdDSA")
PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

MIN_RSA_BITS = 2048
"""RFC 7518, 3.3."""
MAX_KEYS = 64
"""Of one set: without a kid, a bad token is checked against all of them."""

_FROM_JWK: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}
_CURVES = {"EC": {"P-256"}, "OKP": {"Ed25519", "Ed448"}}


@dataclass(frozen=True, slots=True)
class Key:
    """A key, the one algorithm that it is for, and the id that a set gives it."""

    algorithm: Algorithm
    value: bytes | PublicKey = field(repr=False)
    kid: str | None = None


class _Jwk(msgspec.Struct, omit_defaults=True):
    """The members that mean something here; those of a private key are not read."""

    kty: str = ""
    use: str = "sig"
    alg: str | None = None
    kid: str | None = None
    key_ops: list[str] | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None


class _KeySet(msgspec.Struct):
    keys: list[_Jwk]


_key_set = msgspec.json.Decoder(_KeySet)


def read_pem(data: bytes) -> tuple[Key, ...]:
    """The public key of a PEM file, or that of a certificate. Raises ValueError, with a text for its owner."""
    if b"PRIVATE KEY-----" in data:
        raise ValueError("it holds a private key, and the bridge is to have the public one alone")
    try:
        if b"-----BEGIN CERTIFICATE-----" in data:
            value: object = load_pem_x509_certificate(data).public_key()
        else:
            value = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it holds no public key in PEM") from None
    key = _bound(value, None)
    if key is None:
        raise ValueError(f"its key is none of RSA with at least {MIN_RSA_BITS} bits, P-256, Ed25519 and Ed448")
    return (key,)


def read_jwks(data: bytes) -> tuple[Key, ...]:
    """The usable keys of a JSON Web Key Set (RFC 7517); there is at least one. Raises ValueError, with a text.

    Keys for something else (of another kind, for encryption, for another algorithm) may be there, and are left out.
    """
    try:
        entries = _key_set.decode(data).keys
    except (ValueError, RecursionError):
        raise ValueError('it is no JSON Web Key Set: {"keys":[…]}') from None
    keys = [key for index, entry in enumerate(entries) if (key := _read_jwk(entry, index)) is not None]
    if not keys:
        raise ValueError("it holds no key for RS256, ES256 or EdDSA")
    if len(keys) > MAX_KEYS:
        raise ValueError(f"it holds more than {MAX_KEYS} keys")
    return tuple(keys)


def _read_jwk(jwk: _Jwk, index: int) -> Key | None:
    from_jwk = _FROM_JWK.get(jwk.kty)
    if from_jwk is None or jwk.use != "sig" or (jwk.key_ops is not None and "verify" not in jwk.key_ops):
        return None
    if jwk.kty in _CURVES and jwk.crv not in _CURVES[jwk.kty]:
        return None
    try:
        value = from_jwk(msgspec.to_builtins(jwk))
    except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"its key number {index + 1} cannot be read") from None
    key = _bound(value, jwk.kid)
    return key if key is not None and jwk.alg in (None, key.algorithm) else None


def _bound(value: object, kid: str | None) -> Key | None:
    """A public key with its algorithm; None where it is for none of ours."""
    match value:
        case RSAPublicKey() if value.key_size >= MIN_RSA_BITS:
            return Key("RS256", value, kid)
        case EllipticCurvePublicKey() if isinstance(value.curve, SECP256R1):
            return Key("ES256", value, kid)
        case Ed25519PublicKey() | Ed448PublicKey():
            return Key("EdDSA", value, kid)
    return None
