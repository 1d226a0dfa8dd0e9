"""Keys: what is taken from files as their owners make them, and what is refused in words for them."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from bridge.server.keys import MAX_KEYS, Key, PublicKey, read_jwks, read_pem

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
ED448 = ed448.Ed448PrivateKey.generate()

USABLE: list[tuple[str, PublicKey]] = [
    ("RS256", RSA.public_key()),
    ("ES256", P256.public_key()),
    ("EdDSA", ED25519.public_key()),
    ("EdDSA", ED448.public_key()),
]


def pem(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def jwk(key: PublicKey, **more: object) -> dict[str, Any]:
    match key:
        case rsa.RSAPublicKey():
            members = RSAAlgorithm.to_jwk(key, as_dict=True)
        case ec.EllipticCurvePublicKey():
            members = ECAlgorithm.to_jwk(key, as_dict=True)
        case _:
            members = OKPAlgorithm.to_jwk(key, as_dict=True)
    return {name: value for name, value in members.items() if name != "key_ops"} | more


def jwks(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


@pytest.mark.parametrize(("algorithm", "key"), USABLE)
def test_a_public_key_is_for_one_algorithm(algorithm: str, key: PublicKey) -> None:
    assert read_pem(pem(key)) == (Key(algorithm, key),)  # type: ignore[arg-type]
    assert read_pem(b"# a comment\n" + pem(key) + b"\n\n") == read_pem(pem(key))
    assert read_jwks(jwks(jwk(key))) == read_pem(pem(key))


def test_the_key_of_a_certificate_is_taken() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, P256.public_key(), 1, now, now + timedelta(days=1))
    certificate = builder.sign(P256, hashes.SHA256()).public_bytes(Encoding.PEM)
    assert read_pem(certificate) == (Key("ES256", P256.public_key()),)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "no public key in PEM"),
        (b"secret", "no public key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no public key in PEM"),
        (RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "a private key"),
        (RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()), "a private key"),
        (pem(WEAK_RSA.public_key()), "RSA with at least 2048 bits"),
        (pem(P384.public_key()), "is none of"),
        (pem(x25519.X25519PrivateKey.generate().public_key()), "is none of"),
    ],
)
def test_a_file_without_a_usable_key_is_refused(data: bytes, part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        read_pem(data)
    assert "\n" not in str(caught.value)


def test_a_set_has_keys_of_every_kind_and_others_are_left_out() -> None:
    usable = [jwk(key, kid=f"k{index}") for index, (_, key) in enumerate(USABLE)]
    others = [
        jwk(RSA.public_key(), use="enc"),
        jwk(RSA.public_key(), alg="PS256"),
        jwk(RSA.public_key(), key_ops=["encrypt"]),
        jwk(WEAK_RSA.public_key()),
        jwk(P384.public_key()),
        {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"},
        {"kty": "new"},
        {},
    ]
    keys = read_jwks(jwks(*others, *usable))
    assert [(key.algorithm, key.value, key.kid) for key in keys] == [
        (algorithm, key, f"k{index}") for index, (algorithm, key) in enumerate(USABLE)
    ]
    with pytest.raises(ValueError, match="no key for RS256"):
        read_jwks(jwks(*others))


def test_what_a_key_of_a_set_may_say_of_itself() -> None:
    said = jwk(P256.public_key(), use="sig", alg="ES256", key_ops=["verify"], kid="1", x5t="x")
    assert read_jwks(jwks(said)) == (Key("ES256", P256.public_key(), "1"),)


def test_of_a_private_key_in_a_set_the_public_part_is_taken() -> None:
    private = json.loads(ECAlgorithm.to_jwk(P256))
    assert "d" in private
    assert read_jwks(jwks({**private, "key_ops": ["sign", "verify"]})) == (Key("ES256", P256.public_key()),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"keys":{}}',
        b'{"keys":[7]}',
        b'{"keys":[{"kty":["RSA"]}]}',
        b'{"keys":' + b"[" * 100_000,
        jwks(),
        jwks(*[jwk(ED25519.public_key())] * (MAX_KEYS + 1)),
        jwks({"kty": "RSA"}),
        jwks({"kty": "RSA", "n": 7, "e": 7}),
        jwks({"kty": "RSA", "n": "AQAB", "e": "AA"}),
        jwks({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}),
        jwks({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
        jwks({"kty": "OKP", "crv": ["Ed25519"], "x": "AAAA"}),
        jwks(jwk(P256.public_key(), key_ops=7)),
        jwks(jwk(P256.public_key(), kid=7)),
    ],
)
def test_a_broken_set_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it |^its ") as caught:
        read_jwks(data)
    assert "\n" not in str(caught.value)


entries: st.SearchStrategy[dict[str, object]] = st.dictionaries(
    st.sampled_from(("kty", "crv", "x", "y", "n", "e", "d", "use", "alg", "kid", "key_ops")),
    st.sampled_from(("RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "", "é", 7, None, ["verify"], {}, True)),
)


@given(st.lists(entries, max_size=3))
def test_any_set_is_read_or_refused(entries: list[dict[str, object]]) -> None:
    with suppress(ValueError):
        assert read_jwks(jwks(*entries))


def test_a_key_does_not_show_its_secret() -> None:
    assert "hunter2" not in repr(Key("HS256", b"hunter2" * 5))
