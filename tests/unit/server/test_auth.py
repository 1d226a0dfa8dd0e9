"""Tokens at the door: where they are looked for, which are believed, and that nobody gets to see one."""

import json
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from bridge.core.grants import EVERYTHING, BadToken, Grant
from bridge.core.target import parse_target
from bridge.errors import SettingsError
from bridge.server.auth import MAX_TOKEN_BYTES, Authenticator
from bridge.server.http import Header, Request
from bridge.server.key_source import LOOK_SECONDS
from bridge.settings import Settings
from tests.support.tokens import SECRET, forged, segment, token

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
OTHER_P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def jwks(**keys: ec.EllipticCurvePrivateKey) -> str:
    """A set of public keys, by kid; a kid that begins with _ is left out."""
    entries = []
    for kid, key in keys.items():
        entry = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        entries.append(entry if kid.startswith("_") else {**entry, "kid": kid})
    return json.dumps({"keys": entries})


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def request(target: str = "/ws", *headers: Header) -> Request:
    return Request("GET", target, [(b"host", b"localhost"), *headers])


def bearer(token: str) -> Header:
    return (b"authorization", b"Bearer " + token.encode())


def protocols(token: str) -> Header:
    return (b"sec-websocket-protocol", b"bridge.v1, bearer." + token.encode())


def ask(authenticator: Authenticator, target: str = "/ws", *headers: Header) -> Grant:
    return authenticator.grant(request(target, *headers), parse_target(target, frozenset({"a"})))


def refusal(authenticator: Authenticator, target: str = "/ws", *headers: Header, status: int = 401) -> str:
    with pytest.raises(BadToken) as caught:
        ask(authenticator, target, *headers)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def secret() -> Authenticator:
    return Authenticator(Settings(jwt_key=SECRET))


def test_a_token_comes_by_header_subprotocol_or_query(secret: Authenticator) -> None:
    good = token({"channels": ["a"], "where": {"m": [7, "8"]}, "exp": time.time() + 60})
    for target, headers in (
        ("/ws", (bearer(good),)),
        ("/ws", ((b"authorization", b"bearer   " + good.encode() + b" "),)),
        ("/ws", (protocols(good),)),
        ("/ws", ((b"sec-websocket-protocol", b"bearer." + good.encode()), (b"sec-websocket-protocol", b"bridge.v1"))),
        (f"/ws?token={good}", ()),
        ("/sse", (bearer(good),)),
        (f"/sse?token={good}", ()),
        (f"/ws?token={good}", (bearer(good), protocols(good))),
        (f"/ws?token={good}", ((b"authorization", b"Basic YTpi"),)),
    ):
        grant = ask(secret, target, *headers)
        assert (grant.channels, grant.where) == (("a",), (("m", ("7", "8")),))
        assert grant.expires_at is not None
        assert 0 < grant.expires_at - time.time() <= 60


def test_without_a_token_nobody_comes_in(secret: Authenticator) -> None:
    for target, *headers in (
        ("/ws",),
        ("/ws?token=",),
        ("/ws", (b"authorization", b"Basic YTpi")),
        ("/ws", (b"authorization", b"")),
        ("/sse", protocols(token({}))),
    ):
        assert refusal(secret, target, *headers).startswith("a token is needed")


def test_different_tokens_are_no_request_at_all(secret: Authenticator) -> None:
    one, other = token({}), token({"channels": []})
    for target, headers in (
        (f"/ws?token={one}", (bearer(other),)),
        (f"/ws?token={one}", (protocols(other),)),
        ("/ws", (protocols(one), bearer(other))),
        ("/ws", (protocols(one), protocols(other))),
    ):
        assert "different tokens" in refusal(secret, target, *headers, status=400)


def test_without_authentication_a_proxys_header_is_ignored_and_a_clients_own_token_refused() -> None:
    for settings in (Settings(), Settings(auth="none", jwt_key=SECRET)):
        free = Authenticator(settings)
        assert ask(free) is EVERYTHING
        assert ask(free, "/ws", bearer("anything"), (b"sec-websocket-protocol", b"bridge.v1")) is EVERYTHING
        assert ask(free, "/sse", protocols("x")) is EVERYTHING
        free.reload()
        for target, headers in (("/ws?token=x", ()), ("/sse?token=x", ()), ("/ws", (protocols("x"),))):
            assert "leave it out" in refusal(free, target, *headers, status=400)


def test_claims_are_checked_with_what_is_configured() -> None:
    now = 1_700_000_000.0
    strict = Authenticator(Settings(jwt_key=SECRET, jwt_audience="me", jwt_issuer="us"), now=lambda: now)
    good = {"aud": ["me"], "iss": "us", "exp": now + 1}
    assert ask(strict, "/ws", bearer(token(good))) == Grant(None, (), now + 1)
    for wrong, part in (
        ({"exp": now}, "the token has expired"),
        ({"nbf": now + 60}, "not valid yet"),
        ({"aud": "them"}, "another audience"),
        ({"iss": "them"}, "issuer"),
        ({"channels": 7}, "wrong type"),
        ({"where": {"a": {}}}, "claims cannot be read"),
    ):
        assert part in refusal(strict, "/ws", bearer(token(good | wrong)))


def key_file(tmp_path: Path, data: bytes | str) -> str:
    path = tmp_path / "keys"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (P256, "ES256"), (ED25519, "EdDSA")])
def test_a_public_key_believes_its_own_algorithm_alone(tmp_path: Path, key: Any, algorithm: str) -> None:
    public = pem(key)
    authenticator = Authenticator(Settings(jwt_key_file=key_file(tmp_path, public)))
    assert ask(authenticator, "/ws", bearer(token({}, key, algorithm))) == EVERYTHING
    assert ask(authenticator, "/ws", bearer(token({}, key, algorithm, kid="any"))) == EVERYTHING
    for attack in (
        forged({"alg": "HS256"}, {}, public),
        forged({"alg": "HS256"}, {}, public.strip()),
        forged({"alg": "none"}, {}),
        token({}),
        *([token({}, RSA, "RS512"), token({}, RSA, "PS256")] if algorithm == "RS256" else []),
    ):
        assert f"it is to be {algorithm}" in refusal(authenticator, "/ws", bearer(attack))
    for attack in (forged({"alg": algorithm}, {}), forged({"alg": algorithm}, {}, public)):
        assert "signature does not fit" in refusal(authenticator, "/ws", bearer(attack))


def test_a_secret_believes_one_algorithm_alone(secret: Authenticator) -> None:
    for attack in (
        forged({"alg": "none"}, {}),
        forged({"alg": "None"}, {}),
        forged({"alg": "hs256"}, {}, SECRET.encode()),
        forged({"alg": ""}, {}),
        token({}, SECRET * 2, "HS512"),
        token({}, P256, "ES256"),
    ):
        assert "it is to be HS256" in refusal(secret, "/ws", bearer(attack))
    for attack in (token({}, SECRET + "x"), forged({"alg": "HS256"}, {}), forged({"alg": "HS256"}, {}, b"")):
        assert refusal(secret, "/ws", bearer(attack)) == "the token's signature does not fit"


def test_changed_tokens_are_not_believed(secret: Authenticator) -> None:
    header, claims, signature = token({"channels": ["a"]}).split(".")
    wider = segment(json.dumps({"channels": ["*"]}).encode())
    for changed in (
        f"{header}.{wider}.{signature}",
        f"{header}.{claims}.{signature[:-2]}",
        f"{header}.{claims}.",
        f"{header}..{signature}",
    ):
        refusal(secret, "/ws", bearer(changed))


@pytest.mark.parametrize(
    "bad",
    [
        "x",
        "a.b",
        "a.b.c.d.e",
        "..",
        "!.!.!",
        "é.é.é",
        "a b.c.d",
        segment(b"[]") + ".e30.e30",
        segment(b"{}") + ".e30.e30",
        segment(b'{"alg":7}') + ".e30.e30",
        segment(b'{"alg":"HS256","kid":{}}') + ".e30.e30",
        segment(b'{"alg":"HS256","b64":false}') + "..e30",
        segment(b'{"alg":"HS256","x":' + b"[" * 5000) + ".e30.e30",
        segment(b'{"alg":"HS256","x":"\xff"}') + ".e30.e30",
        token([]),
        token("x"),
        token({"x": "y" * MAX_TOKEN_BYTES}),
        "a" * (MAX_TOKEN_BYTES + 1),
    ],
)
def test_what_is_no_good_token_is_refused(secret: Authenticator, bad: str) -> None:
    refusal(secret, "/ws", bearer(bad))


def test_a_demand_that_is_not_known_is_not_ignored(secret: Authenticator) -> None:
    headers: list[dict[str, object]] = [
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"crit": None},
    ]
    for header in headers:
        attack = forged({"alg": "HS256", **header}, {}, SECRET.encode())
        assert "an extension that is not known here (crit)" in refusal(secret, "/ws", bearer(attack))


@given(st.binary(max_size=60) | st.from_regex(rb"[A-Za-z0-9_-]{0,9}(\.[A-Za-z0-9_=-]{0,9}){1,4}", fullmatch=True))
def test_any_header_is_refused(data: bytes) -> None:
    header = (b"authorization", b"Bearer " + data)
    refusal(Authenticator(Settings(jwt_key=SECRET)), "/ws", header)


def test_a_key_is_chosen_by_its_id(tmp_path: Path) -> None:
    path = key_file(tmp_path, jwks(one=P256, two=OTHER_P256))
    authenticator = Authenticator(Settings(jwks_file=path))
    for good in (
        token({}, P256, "ES256", kid="one"),
        token({}, OTHER_P256, "ES256", kid="two"),
        token({}, P256, "ES256"),
        token({}, OTHER_P256, "ES256"),
    ):
        assert ask(authenticator, "/ws", bearer(good)) == EVERYTHING
    wrong = refusal(authenticator, "/ws", bearer(token({}, P256, "ES256", kid="two")))
    assert wrong == "the token's signature does not fit"
    assert "not known here (kid)" in refusal(authenticator, "/ws", bearer(token({}, P256, "ES256", kid="three")))
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert "does not fit" in refusal(authenticator, "/ws", bearer(token({}, stranger, "ES256")))


def test_a_key_without_an_id_is_tried_for_every_token(tmp_path: Path) -> None:
    authenticator = Authenticator(Settings(jwks_file=key_file(tmp_path, jwks(one=P256, _other=OTHER_P256))))
    assert ask(authenticator, "/ws", bearer(token({}, OTHER_P256, "ES256", kid="any"))) == EVERYTHING


def replace(path: str, data: str) -> None:
    """As careful people do it: readers see the old file or the new one."""
    Path(path + ".new").write_text(data)
    os.replace(path + ".new", path)


def overwrite(path: str, data: str) -> None:
    Path(path).write_text(data)


def swap_link(path: str, data: str) -> None:
    """As Kubernetes does it."""
    target = Path(f"{path}.{len(os.listdir(Path(path).parent))}")
    target.write_text(data)
    Path(path + ".link").symlink_to(target)
    os.replace(path + ".link", path)


@pytest.mark.parametrize("write", [replace, overwrite, swap_link])
def test_keys_are_rotated_while_running(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, write: Callable[[str, str], None]
) -> None:
    clock = Clock()
    path = key_file(tmp_path, jwks(one=P256))
    authenticator = Authenticator(Settings(jwks_file=path), clock=clock)
    old, new = (bearer(token({}, key, "ES256", kid=kid)) for key, kid in ((P256, "one"), (OTHER_P256, "two")))
    assert ask(authenticator, "/ws", old) == EVERYTHING
    write(path, jwks(one=P256, two=OTHER_P256))
    assert "(kid)" in refusal(authenticator, "/ws", new)
    clock.seconds += LOOK_SECONDS
    assert ask(authenticator, "/ws", new) == ask(authenticator, "/ws", old) == EVERYTHING
    write(path, jwks(two=OTHER_P256))
    clock.seconds += LOOK_SECONDS
    assert ask(authenticator, "/ws", new) == EVERYTHING
    assert "(kid)" in refusal(authenticator, "/ws", old)


def test_a_broken_file_keeps_the_old_keys_and_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    path = key_file(tmp_path, jwks(one=P256))
    authenticator = Authenticator(Settings(jwks_file=path), clock=clock)
    good = bearer(token({}, P256, "ES256"))
    for breaking, part in (
        (partial(overwrite, path, '{"keys":['), "no JSON Web Key Set"),
        (partial(overwrite, path, '{"keys":[]}'), "holds no key"),
        (partial(os.remove, path), "No such file"),
        (partial(os.mkdir, path), "regular file"),
    ):
        breaking()
        for _ in range(3):
            clock.seconds += LOOK_SECONDS
            assert ask(authenticator, "/ws", good) == EVERYTHING
        [record] = caplog.records
        assert record.levelname == "ERROR"
        assert record.getMessage().startswith(f"BRIDGE_JWKS_FILE: {path!r} cannot be used, the keys from before stay")
        assert part in record.getMessage()
        caplog.clear()
    os.rmdir(path)
    overwrite(path, jwks(two=OTHER_P256))
    clock.seconds += LOOK_SECONDS
    assert "does not fit" in refusal(authenticator, "/ws", good)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_file_is_read_again_on_request(tmp_path: Path) -> None:
    path = key_file(tmp_path, pem(P256))
    authenticator = Authenticator(Settings(jwt_key_file=path), clock=Clock())
    Path(path).write_bytes(pem(OTHER_P256))
    authenticator.reload()
    assert ask(authenticator, "/ws", bearer(token({}, OTHER_P256, "ES256"))) == EVERYTHING


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (None, "No such file or directory"),
        (b"", "no public key in PEM"),
        (b"x" * (2 << 20), "longer than"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_refused_at_start(tmp_path: Path, data: bytes | None, part: str) -> None:
    path = str(tmp_path / "none") if data is None else key_file(tmp_path, data)
    with pytest.raises(SettingsError, match=part) as caught:
        Authenticator(Settings(jwt_key_file=path))
    assert str(caught.value).startswith(f"BRIDGE_JWT_KEY_FILE: {path!r} cannot be used")
    assert "\n" not in str(caught.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="no regular file"):
        Authenticator(Settings(jwks_file=str(tmp_path / "pipe")))


def test_a_public_key_is_no_secret() -> None:
    for public in (pem(RSA).decode(), "\n" + pem(P256).decode()):
        with pytest.raises(SettingsError, match="BRIDGE_JWT_KEY: this is a key in PEM") as caught:
            Authenticator(Settings(jwt_key=public))
        assert public.split()[3] not in str(caught.value)


def test_no_log_and_no_error_shows_a_token(secret: Authenticator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hidden = "hunter2"
    for bad in (
        token({"exp": 1, hidden: hidden}, kid=hidden),
        token({"aud": hidden, "channels": [hidden]}),
        token({"channels": {hidden: hidden}}),
        token({"where": {hidden: {hidden: 1}}}),
        forged({"alg": hidden, "kid": hidden}, {}),
        forged({"alg": "HS256", "crit": [hidden]}, {}),
        segment(f'{{"alg":"HS256","{hidden}'.encode()) + ".e30.e30",
        f"{hidden}.{hidden}.{hidden}",
        hidden,
    ):
        for headers in ((bearer(bad),), (protocols(bad),)):
            with pytest.raises(BadToken) as caught:
                ask(secret, "/ws", *headers)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
            assert hidden not in str(caught.value)
            assert not any(part and part in str(caught.value) for part in bad.split("."))
    assert hidden not in caplog.text
    assert "eyJ" not in caplog.text
