"""AWS's shared files, which obstore ignores: what ~/.aws/credentials and ~/.aws/config say of a profile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import StoreError

if TYPE_CHECKING:
    from configparser import RawConfigParser

_FROM_ELSEWHERE = (
    "role_arn",
    "sso_session",
    "sso_start_url",
    "credential_process",
    "web_identity_token_file",
)


def configured(environ: Mapping[str, str]) -> dict[str, str]:
    """Keys, ``region`` and ``endpoint`` for obstore, as the environment and the profile that it names say.

    What the environment says itself wins; its keys are left to obstore, which finds a role's as well. Raises
    StoreError for a profile that AWS_PROFILE names and that cannot be used.
    """
    found: dict[str, str] = {}
    keyed = any(environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"))
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if not (keyed and region):
        profile = _profile(environ, keyed)
        region = region or profile.get("region")
        endpoint = endpoint or profile.get("endpoint_url")
        if not keyed and profile.get("aws_access_key_id"):
            found["access_key_id"] = profile["aws_access_key_id"]
            found["secret_access_key"] = profile.get("aws_secret_access_key", "")
            if profile.get("aws_session_token"):
                found["session_token"] = profile["aws_session_token"]
    found["region"] = region or "us-east-1"
    if endpoint:
        found["endpoint"] = endpoint
    return found


def _profile(environ: Mapping[str, str], keyed: bool) -> dict[str, str]:
    """A profile's entries of both files; empty where there is none and none was asked for."""
    asked = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
    name = asked or "default"
    home = os.path.join(environ.get("HOME") or "/nonexistent", ".aws")
    files = {
        environ.get("AWS_CONFIG_FILE") or f"{home}/config": name if name == "default" else f"profile {name}",
        environ.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/credentials": name,
    }
    entries: dict[str, str] = {}
    there = False
    for path, section in files.items():
        parsed = _parsed(path)
        if parsed is not None and parsed.has_section(section):
            there = True
            entries.update(parsed.items(section))
    if asked and not there:
        raise StoreError(
            f"AWS_PROFILE names {asked!r}, which is in none of {', '.join(files)}", code="no_credentials"
        )
    elsewhere = next((entry for entry in _FROM_ELSEWHERE if entries.get(entry)), None)
    if asked and not keyed and elsewhere and not entries.get("aws_access_key_id"):
        raise StoreError(
            f"the profile {asked!r} has its keys from {elsewhere}, which is not followed here: "
            f'eval "$(aws configure export-credentials --profile {asked} --format env)" puts them into the '
            "environment",
            code="no_credentials",
        )
    return entries


def _parsed(path: str) -> RawConfigParser | None:
    if not os.path.exists(path):
        return None
    from configparser import Error, RawConfigParser  # most hosts have no such file

    parser = RawConfigParser(default_section="")  # "default" is a profile like any other
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, Error, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise StoreError(f"{path} cannot be read: {text}", code="no_credentials") from error
    return parser
