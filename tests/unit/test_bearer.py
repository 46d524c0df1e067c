"""JSON web tokens, made with real keys and checked as a server would, and a JWKS server on loopback."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from preheat import bearer
from preheat.errors import SettingsError, UnauthenticatedError, UnavailableError
from preheat.principals import Principals
from preheat.settings import Settings

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
ISSUER = "https://idp.example.com/"
KINDS = {"RS256": RSA, "PS256": RSA, "ES256": EC, "EdDSA": ED}


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"iss": ISSUER, "aud": "preheat", "sub": "user-7", "iat": now, "exp": now + 86400, **changes}
    return {name: value for name, value in made.items() if value is not None}


def token(key: Any = RSA, alg: str = "RS256", kid: str | None = "rsa", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=alg, headers={} if kid is None else {"kid": kid})


def public(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk(kid: str, key: Any, **more: Any) -> dict[str, Any]:
    kind: Any = OKPAlgorithm
    if isinstance(key, rsa.RSAPrivateKey):
        kind = RSAAlgorithm
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        kind = ECAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


JWKS = {"keys": [jwk("rsa", RSA, use="sig"), jwk("ec", EC), jwk("ed", ED, alg="EdDSA")]}


def settings(place: Path | str, **changes: str) -> Settings:
    return Settings(jwt_keys=str(place), jwt_issuer=ISSUER, jwt_audience="preheat", **changes)  # type: ignore[arg-type]


def of(principals: Principals, text: str) -> str:
    return principals.of({"authorization": f"Bearer {text}"})


@pytest.fixture
def principals(tmp_path: Path) -> Principals:
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    return Principals.from_settings(settings(tmp_path / "jwks.json"))


# What a good token gets


@pytest.mark.parametrize(
    ("alg", "kid"), [("RS256", "rsa"), ("RS512", "rsa"), ("PS256", "rsa"), ("ES256", "ec"), ("EdDSA", "ed")]
)
def test_a_token_of_each_kind_names_its_tenant(principals: Principals, alg: str, kid: str) -> None:
    key = {"rsa": RSA, "ec": EC, "ed": ED}[kid]
    assert of(principals, token(key, alg, kid)) == f"jwt:{ISSUER}|user-7"


@pytest.mark.parametrize("alg", list(KINDS))
def test_a_public_key_in_pem(tmp_path: Path, alg: str) -> None:
    key = KINDS[alg]
    (tmp_path / "key.pem").write_bytes(public(key))
    principals = Principals.from_settings(settings(tmp_path / "key.pem"))
    for kid in (None, "any"):
        assert of(principals, token(key, alg, kid)) == f"jwt:{ISSUER}|user-7"
    with pytest.raises(UnauthenticatedError):
        of(principals, token(OTHER))


def test_the_claim_and_the_audience_are_the_deployments(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(public(RSA))
    place = str(tmp_path / "key.pem")
    by_org = Principals.from_settings(
        Settings(jwt_keys=place, jwt_issuer=ISSUER, jwt_audience="a, b", jwt_claim="org")
    )
    assert of(by_org, token(aud=["x", "b"], org="acme|co")) == f"jwt:{ISSUER}|acme%7Cco"
    with pytest.raises(UnauthenticatedError, match="has no 'org'"):
        of(by_org, token(aud="a"))
    anybody = Principals.from_settings(Settings(jwt_keys=place, jwt_issuer=ISSUER, jwt_audience="*"))
    assert of(anybody, token(aud=None)) == f"jwt:{ISSUER}|user-7"
    assert of(anybody, token(aud="elsewhere")) == f"jwt:{ISSUER}|user-7"


def test_keys_and_tokens_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    digest = "sha256:" + hashlib.sha256(b"pk_a").hexdigest()
    (tmp_path / "keys.json").write_text(json.dumps({f"{ISSUER}|user-7": digest}))
    both = settings(tmp_path / "jwks.json", api_keys=str(tmp_path / "keys.json"))
    principals = Principals.from_settings(both)
    assert of(principals, token()) == f"jwt:{ISSUER}|user-7"
    assert of(principals, "pk_a") == f"key:{ISSUER}%7Cuser-7"
    assert principals.of({"x-api-key": "pk_a"}) == f"key:{ISSUER}%7Cuser-7"
    with pytest.raises(UnauthenticatedError):
        of(principals, "pk_b")


# What a bad one gets


def unsigned(header: dict[str, Any], payload: Any, signature: bytes = b"") -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    parts = [json.dumps(header).encode(), json.dumps(payload).encode()]
    return ".".join([*map(part, parts), part(signature)])


def confused(pem: bytes) -> str:
    """HS256 with the public key as the secret, made by hand because PyJWT refuses to."""
    head = unsigned({"alg": "HS256", "typ": "JWT", "kid": "rsa"}, claims()).rpartition(".")[0]
    mac = hmac.digest(pem, head.encode(), "sha256")
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def swapped(text: str, **changes: Any) -> str:
    """Another payload under the signature of ``text``."""
    head, _, signature = text.split(".")
    payload = base64.urlsafe_b64encode(json.dumps(claims(**changes)).encode()).rstrip(b"=").decode()
    return f"{head}.{payload}.{signature}"


BAD = {
    "alg none": (unsigned({"alg": "none", "kid": "rsa"}, claims()), "no key and algorithm"),
    "alg None": (unsigned({"alg": "None", "kid": "rsa"}, claims()), "no key and algorithm"),
    "no alg": (unsigned({"kid": "rsa"}, claims()), "no key and algorithm"),
    "alg list": (unsigned({"alg": ["RS256"], "kid": "rsa"}, claims()), "not valid|no key"),
    "confused": (confused(public(RSA)), "no key and algorithm"),
    "confused, stripped": (confused(public(RSA).strip()), "no key and algorithm"),
    "rsa key, ec kid": (token(RSA, "RS256", "ec"), "no key and algorithm"),
    "key's own alg": (token(ED, "EdDSA", "ec"), "no key and algorithm"),
    "another key": (token(OTHER), "is not valid"),
    "another payload": (swapped(token(), sub="admin"), "is not valid"),
    "expired": (token(exp=int(time.time()) - 60), "has expired"),
    "no expiry": (token(exp=None), "has no 'exp'"),
    "expiry no number": (token(exp="soon"), "is not valid"),
    "not yet": (token(nbf=int(time.time()) + 86400), "is not valid yet"),
    "issued later": (token(iat=int(time.time()) + 86400), "is not valid yet"),
    "wrong issuer": (token(iss="https://evil.example.com/"), "another issuer"),
    "issuer's prefix": (token(iss=ISSUER.rstrip("/")), "another issuer"),
    "no issuer": (token(iss=None), "has no 'iss'"),
    "wrong audience": (token(aud="elsewhere"), "another audience"),
    "no audience": (token(aud=None), "aud"),
    "no subject": (token(sub=None), "has no 'sub'"),
    "empty subject": (token(sub=""), "no name of a tenant"),
    "subject with a line": (token(sub="a\nb"), "no name of a tenant"),
    "long subject": (token(sub="x" * 600), "no name of a tenant"),
    "subject no text": (unsigned({"alg": "RS256", "kid": "rsa"}, claims(sub=7)), "is not valid"),
    "unknown kid": (token(kid="gone"), "no key and algorithm"),
    "no kid": (token(kid=None), "no key and algorithm"),
    "kid no text": (unsigned({"alg": "RS256", "kid": {"a": 1}}, claims()), "is not valid"),
    "critical": (
        jwt.encode(claims(), RSA, algorithm="RS256", headers={"kid": "rsa", "crit": ["b64"], "b64": True}),
        "is not valid|no key and algorithm",
    ),
    "cut": (token()[:-20], "is not valid"),
    "two parts": (token().rpartition(".")[0], "is not valid"),
    "four parts": (token() + ".e30", "is not valid"),
    "garbage": ("garbage", "is not valid"),
    "dots": ("..", "is not valid"),
    "payload a list": (unsigned({"alg": "RS256", "kid": "rsa"}, []), "is not valid"),
    "deep": (
        "e30." + base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=") + ".e30",
        "no key|not valid",
    ),
    "oversized": (token(pad="x" * 20_000), "longer than 16384"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_token_that_is_wrong_is_not_accepted(principals: Principals, name: str) -> None:
    text, said = BAD[name]
    with pytest.raises(UnauthenticatedError, match=said) as caught:
        of(principals, text)
    assert caught.value.code == "unauthenticated"
    assert of(principals, token()) == f"jwt:{ISSUER}|user-7"


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "kid": "rsa", "k": base64.urlsafe_b64encode(b"s" * 32).decode(), "alg": "HS256"},
        {**jwk("rsa", RSA), "use": "enc"},
        {**jwk("rsa", RSA), "alg": "RSA-OAEP"},
        {**jwk("rsa", RSA), "n": "!"},
        {"kty": "RSA", "kid": "rsa"},
        jwk("rsa", rsa.generate_private_key(public_exponent=65537, key_size=1024)),
        7,
    ],
    ids=["symmetric", "encryption", "another alg", "broken", "empty", "short", "number"],
)
def test_keys_that_may_not_sign_are_passed_over(tmp_path: Path, entry: Any) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [entry, jwk("ec", EC)]}))
    principals = Principals.from_settings(settings(tmp_path / "jwks.json"))
    assert of(principals, token(EC, "ES256", "ec")) == f"jwt:{ISSUER}|user-7"
    with pytest.raises(UnauthenticatedError):
        of(principals, token())
    with pytest.raises(UnauthenticatedError):
        of(principals, unsigned({"alg": "HS256", "kid": "rsa"}, claims(), b"s" * 32))
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [entry]}))
    alone = Principals.from_settings(settings(tmp_path / "jwks.json"))
    with pytest.raises(UnavailableError, match="no key in it to check signatures with"):
        of(alone, token())


# What is refused at the start


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"jwt_issuer": ""}, "needs PREHEAT_JWT_ISSUER and PREHEAT_JWT_AUDIENCE"),
        ({"jwt_audience": ""}, "needs PREHEAT_JWT_ISSUER and PREHEAT_JWT_AUDIENCE"),
        ({"jwt_claim": ""}, "PREHEAT_JWT_CLAIM"),
        ({"jwt_keys": "http://idp.example.com/jwks"}, "https://"),
        ({"jwt_keys": "http://127.0.0.1.example.com/jwks"}, "https://"),
        ({"jwt_keys": "file:///etc/passwd"}, "https://"),
        ({"jwt_keys": "https://"}, "https://"),
        ({"jwt_keys": "https://["}, "https://"),
        ({"jwt_keys": "/nowhere/jwks.json"}, "cannot be read: No such file"),
        ({"jwt_keys": ""}, "mean nothing without PREHEAT_JWT_KEYS"),
    ],
)
def test_settings_that_would_let_anybody_in_are_refused(changes: dict[str, str], said: str) -> None:
    whole = {"jwt_keys": "https://idp.example.com/", "jwt_issuer": ISSUER, "jwt_audience": "preheat"}
    with pytest.raises(SettingsError, match=said):
        Principals.from_settings(Settings(**{**whole, **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"keys": []}',
        b"[]",
        b"secret",
        RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        b"{" * 2**20 + b"{",
    ],
    ids=["empty", "object", "no keys", "list", "secret", "private", "large"],
)
def test_a_file_that_holds_no_public_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(SettingsError, match="is not a JWKS file, a PEM file of a public key"):
        Principals.from_settings(settings(tmp_path / "keys"))


def test_without_pyjwt_the_start_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'preheat\[auth\]'"):
        Principals.from_settings(settings(tmp_path))


LAZY = """
import sys
from preheat.principals import Principals
from preheat.settings import Settings
made = Principals.from_settings(
    Settings(jwt_keys="https://idp.example.com/", jwt_issuer="i", jwt_audience="a")
)
assert made.required
print(*sorted({m.partition(".")[0] for m in sys.modules} & {"jwt", "cryptography", "ssl", "http", "numpy"}))
"""


def test_nothing_heavy_is_imported_before_the_first_token() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# A JWKS server


class Idp:
    """A JWKS server on loopback; what it answers may be changed while it runs."""

    def __init__(self) -> None:
        idp = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                idp.asked += 1
                time.sleep(idp.slow)
                self.send_response(idp.status)
                if idp.status == 302:
                    self.send_header("location", "/elsewhere")
                self.end_headers()
                self.wfile.write(idp.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.asked, self.status, self.slow = 0, 200, 0.0
        self.body = json.dumps({"keys": [jwk("rsa", RSA)]}).encode()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def idp() -> Iterator[Idp]:
    server = Idp()
    yield server
    server.stop()


@pytest.fixture
def remote(idp: Idp, monkeypatch: pytest.MonkeyPatch) -> Principals:
    monkeypatch.setenv("no_proxy", "*")
    return Principals.from_settings(settings(idp.url))


def test_keys_are_fetched_with_the_first_token_and_then_known(idp: Idp, remote: Principals) -> None:
    assert idp.asked == 0
    for _ in range(3):
        assert of(remote, token()) == f"jwt:{ISSUER}|user-7"
    assert idp.asked == 1


def test_unknown_key_ids_cost_the_server_nothing_more(idp: Idp, remote: Principals) -> None:
    of(remote, token())
    for number in range(20):
        with pytest.raises(UnauthenticatedError):
            of(remote, token(kid=f"made-up-{number}"))
    assert idp.asked == 1


def test_a_new_key_is_found_once_it_may_be_asked_for(
    idp: Idp, remote: Principals, monkeypatch: pytest.MonkeyPatch
) -> None:
    of(remote, token())
    idp.body = json.dumps({"keys": [jwk("new", OTHER)]}).encode()
    with pytest.raises(UnauthenticatedError):
        of(remote, token(OTHER, kid="new"))
    monkeypatch.setattr(bearer, "RETRY_S", 0.0)
    assert of(remote, token(OTHER, kid="new")) == f"jwt:{ISSUER}|user-7"
    with pytest.raises(UnauthenticatedError):
        of(remote, token())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (404, b""),
        (302, b""),
        (200, b""),
        (200, b"<html>"),
        (200, b'{"keys": []}'),
        (200, b" " * 2**21),
    ],
)
def test_a_server_that_gives_no_keys_is_unavailable_and_not_the_clients_fault(
    idp: Idp, remote: Principals, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes
) -> None:
    good, idp.status, idp.body = idp.body, status, body
    for _ in range(3):
        with pytest.raises(UnavailableError, match="cannot be fetched") as caught:
            of(remote, token())
    assert (caught.value.code, caught.value.retry_after) == ("keys_unavailable", 5)
    assert idp.asked == 1
    idp.status, idp.body = 200, good
    monkeypatch.setattr(bearer, "RETRY_S", 0.0)
    assert of(remote, token()) == f"jwt:{ISSUER}|user-7"


def test_a_server_that_cannot_be_reached(idp: Idp, remote: Principals) -> None:
    idp.server.server_close()
    with pytest.raises(UnavailableError, match="cannot be fetched"):
        of(remote, token())


def test_a_server_that_is_too_slow(idp: Idp, remote: Principals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bearer, "_TIMEOUT_S", 0.2)
    idp.slow = 1.0
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="cannot be fetched"):
        of(remote, token())
    assert time.monotonic() - began < 0.9


def test_known_keys_outlive_an_outage_for_a_while(
    idp: Idp, remote: Principals, monkeypatch: pytest.MonkeyPatch
) -> None:
    of(remote, token())
    idp.status = 500
    monkeypatch.setattr(bearer, "FRESH_S", 0.0)
    monkeypatch.setattr(bearer, "RETRY_S", 0.0)
    assert of(remote, token()) == f"jwt:{ISSUER}|user-7"
    assert idp.asked == 2
    monkeypatch.setattr(bearer, "STALE_S", 0.0)
    with pytest.raises(UnavailableError):
        of(remote, token())


def test_one_thread_fetches_while_the_others_go_on(
    idp: Idp, remote: Principals, monkeypatch: pytest.MonkeyPatch
) -> None:
    of(remote, token())
    monkeypatch.setattr(bearer, "FRESH_S", 0.0)
    monkeypatch.setattr(bearer, "RETRY_S", 0.5)
    time.sleep(0.6)
    idp.slow = 1.0
    text = token()
    slow = threading.Thread(target=of, args=(remote, text))
    slow.start()
    deadline = time.monotonic() + 5
    while idp.asked < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.monotonic()
    assert of(remote, text) == f"jwt:{ISSUER}|user-7"
    assert time.monotonic() - began < 0.5
    slow.join(10)
    assert idp.asked == 2
