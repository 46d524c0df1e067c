"""Who sends a request: API keys, and what AWS verified. Tokens are in test_bearer.py."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.errors import SettingsError, UnauthenticatedError
from preheat.principals import Principals, lambda_principal, new_key, principal
from preheat.settings import Settings

from ..conftest import ROOT, event


def entry(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def keys(tmp_path: Path, document: Any) -> Settings:
    path = tmp_path / "keys.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return Settings(api_keys=str(path))


@pytest.fixture
def principals(tmp_path: Path) -> Principals:
    document = {"acme": entry("pk_a"), "beta|co": [entry("pk_b"), entry("pk_c")], "gone": []}
    return Principals.from_settings(keys(tmp_path, document))


def test_with_nothing_configured_everybody_is_one_tenant() -> None:
    principals = Principals.from_settings(Settings())
    assert not principals.required
    assert principals.of({"authorization": "Bearer anything", "x-api-key": "k", "x-tenant": "acme"}) == ""
    assert principals.of({}, "iam:arn") == "iam:arn"


@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        ({"authorization": "Bearer pk_a"}, "key:acme"),
        ({"authorization": "bearer  pk_a "}, "key:acme"),
        ({"x-api-key": "pk_a"}, "key:acme"),
        ({"authorization": "Bearer pk_b"}, "key:beta%7Cco"),
        ({"x-api-key": " pk_c"}, "key:beta%7Cco"),
        ({"authorization": "Bearer pk_a", "x-api-key": "pk_b"}, "key:acme"),
        ({"authorization": "Bearer pk_a", "x-tenant": "beta"}, "key:acme"),
    ],
)
def test_a_key_names_its_tenant(principals: Principals, headers: dict[str, str], tenant: str) -> None:
    assert principals.of(headers) == tenant


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "wants credentials: send 'Authorization: Bearer …' or 'x-api-key"),
        ({"x-tenant": "acme"}, "wants credentials"),
        ({"authorization": "Bearer"}, "wants credentials"),
        ({"authorization": "Bearer "}, "wants credentials"),
        ({"x-api-key": ""}, "wants credentials"),
        ({"authorization": "Basic cGtfYTo="}, "must be 'Bearer"),
        ({"authorization": "Basic cGtfYTo=", "x-api-key": "pk_a"}, "must be 'Bearer"),
        ({"authorization": "pk_a"}, "must be 'Bearer"),
        ({"authorization": "Bearer wrong", "x-api-key": "pk_a"}, "not known"),
        ({"x-api-key": "acme"}, "not known"),
        ({"x-api-key": entry("pk_a")}, "not known"),
        ({"x-api-key": "pk_a, pk_b"}, "one printable ASCII word"),
        ({"authorization": "Bearer pk_a, Bearer pk_a"}, "one printable ASCII word"),
        ({"x-api-key": "pk_\xe4"}, "one printable ASCII word"),
        ({"x-api-key": "pk_a\x00"}, "one printable ASCII word"),
        ({"x-api-key": "k" * 16385}, "longer than 16384"),
    ],
)
def test_without_a_known_key_nobody_comes_in(
    principals: Principals, headers: dict[str, str], said: str
) -> None:
    with pytest.raises(UnauthenticatedError, match=said) as caught:
        principals.of(headers)
    assert "pk_a" not in str(caught.value)


def test_what_the_platform_verified_stands(principals: Principals) -> None:
    assert principals.of({}, "sqs:arn:aws:sqs:r:1:q") == "sqs:arn:aws:sqs:r:1:q"
    assert principals.of({"authorization": "AWS4-HMAC-SHA256 …"}, "iam:arn") == "iam:arn"


def test_a_new_key_works_and_is_never_the_same(tmp_path: Path) -> None:
    (key, made), (other, _) = new_key(), new_key()
    assert key != other
    principals = Principals.from_settings(keys(tmp_path, {"acme": made}))
    assert principals.of({"x-api-key": key}) == "key:acme"
    with pytest.raises(UnauthenticatedError):
        principals.of({"x-api-key": other})


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "names no key"),
        ("{}", "names no key"),
        ('{"acme": []}', "names no key"),
        ('["sha256:' + "0" * 64 + '"]', "must hold one object"),
        ("7", "must hold one object"),
        ('{"acme": "pk_secret"}', "never holds a key itself: `preheat key TENANT`"),
        ('{"pk_secret": "acme"}', "never holds a key itself"),
        ('{"acme": "sha256:' + "0" * 63 + '"}', "64 hexadecimal"),
        ('{"acme": "sha256:' + "0" * 63 + 'g"}', "64 hexadecimal"),
        ('{"acme": "md5:' + "0" * 64 + '"}', "64 hexadecimal"),
        ('{"acme": 7}', "64 hexadecimal"),
        ('{"acme": null}', "64 hexadecimal"),
        ('{"acme": {"key": "pk_secret"}}', "64 hexadecimal"),
        ('{"": "sha256:' + "0" * 64 + '"}', "tenant number 1"),
        ('{"a\\n": "sha256:' + "0" * 64 + '"}', "tenant number 1"),
        (
            '{"a": "sha256:' + "0" * 64 + '", "a": "sha256:' + "1" * 64 + '"}',
            "tenant number 2 is there twice",
        ),
        ('{"a": "sha256:' + "0" * 64 + '", "b": "sha256:' + "0" * 64 + '"}', "there already"),
    ],
)
def test_a_malformed_key_file_is_refused_at_the_start(tmp_path: Path, document: str, said: str) -> None:
    with pytest.raises(SettingsError, match="PREHEAT_API_KEYS") as caught:
        Principals.from_settings(keys(tmp_path, document))
    assert said in str(caught.value)
    assert "pk_secret" not in str(caught.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.json: cannot be read: No such file"):
        Principals.from_settings(Settings(api_keys=str(tmp_path / "none.json")))


@given(st.lists(st.text(), min_size=1, max_size=3), st.lists(st.text(), min_size=1, max_size=3))
def test_no_two_principals_share_a_name(one: list[str], other: list[str]) -> None:
    if one != other:
        first, second = principal("jwt", *one), principal("jwt", *other)
        assert first != second or first == ""
        assert principal("key", *one) != principal("jwt", *one) or first == ""


# What AWS verified


@pytest.mark.parametrize(
    ("name", "tenant"),
    [
        ("api_gateway_v1", ""),
        ("api_gateway_v1_authorizer", "authorizer:user-7"),
        ("api_gateway_v1_cognito", "jwt:https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_pool|0f4d"),
        ("api_gateway_v1_iam", "iam:arn:aws:sts::123456789012:assumed-role/caller"),
        ("api_gateway_v2", "jwt:https://idp.example.com/|user-7"),
        ("api_gateway_v2_iam", "iam:arn:aws:iam::123456789012:user/caller"),
        ("api_gateway_v2_lambda", "authorizer:user-7"),
        ("function_url", ""),
        ("function_url_iam", "iam:arn:aws:sts::123456789012:assumed-role/caller"),
        ("function_url_cognito", "cognito:eu-west-1:7d2c"),
        ("alb", ""),
        ("alb_multi_value", ""),
    ],
)
def test_the_identity_that_an_event_carries(name: str, tenant: str) -> None:
    assert lambda_principal(event(name)) == tenant


def test_every_http_event_is_in_the_table_above() -> None:
    found = {path.stem for path in (ROOT / "tests" / "events").glob("*.json")}
    assert len({name for name in found if not name.startswith("sqs")}) == 12


def test_headers_and_bodies_make_nobody() -> None:
    claimed = {
        "headers": {"authorization": "Bearer x", "x-amzn-oidc-identity": "me", "x-forwarded-user": "me"},
        "authorizer": {"principalId": "me"},
        "body": '{"requestContext": {"authorizer": {"principalId": "me"}}}',
    }
    for name in ("api_gateway_v1", "function_url", "alb"):
        assert lambda_principal({**event(name), **claimed}) == ""


def test_another_claim_names_the_tenant() -> None:
    assert lambda_principal(event("api_gateway_v2"), "org") == "jwt:https://idp.example.com/|acme"
    assert lambda_principal(event("api_gateway_v2"), "none") == ""


@pytest.mark.parametrize("junk", [None, [], "x", 7, {"authorizer": []}, {"authorizer": {"iam": "x"}}])
def test_a_context_of_another_shape_is_nobody(junk: Any) -> None:
    assert lambda_principal({"requestContext": junk}) == ""


@pytest.mark.parametrize("value", ["", "x" * 513, "a\nb", 7, None, ["a"], {"a": 1}])
def test_a_principal_that_is_no_name_is_nobody(value: Any) -> None:
    assert lambda_principal({"requestContext": {"authorizer": {"principalId": value}}}) == ""


def test_the_command_makes_a_key_and_its_entry(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "preheat", "key"]
    done = subprocess.run([*command, "acme", "--json"], capture_output=True, text=True, check=True)
    made = json.loads(done.stdout)
    principals = Principals.from_settings(keys(tmp_path, {made["tenant"]: made["entry"]}))
    assert principals.of({"x-api-key": made["key"]}) == "key:acme"
    shown = subprocess.run([*command, "acme"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert json.loads(shown[1].partition(":")[2]) == {"acme": entry(shown[0].split()[-1])}
    refused = subprocess.run([*command, ""], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "1 to 512 printable characters" in refused.stderr
