"""Who sends a request: the tenant, which is what was authenticated and never what a client says of itself.

=================================  =======================================================================
``key:acme``                       an API key of PREHEAT_API_KEYS
``jwt:ISSUER|SUBJECT``             a token that PREHEAT_JWT_KEYS, or API Gateway, verified
``iam:ARN``                        an AWS identity; of an assumed role the role, not the caller's session name
``cognito:IDENTITY``               an identity of a Cognito identity pool
``authorizer:PRINCIPAL``           what an API's own Lambda authorizer calls the caller
``sqs:ARN``, ``invoke:ARN``        a queue; a direct invocation of a Lambda function
(empty)                            everybody else: one anonymous tenant
=================================  =======================================================================

The parts after the kind are escaped, so that no two of different kinds or issuers are ever the same text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import SettingsError, UnauthenticatedError
from .settings import Settings

if TYPE_CHECKING:
    from .bearer import Tokens

MAX_CREDENTIAL = 16 * 1024
"""Characters of a key or token; longer ones are refused unread."""
MAX_NAME = 512
"""Characters of one part of a principal."""
_MAX_KEYS_BYTES = 16 * 1024**2
_DIGEST = "sha256:"


def principal(kind: str, *parts: str) -> str:
    """The name of an authenticated caller; empty where a part is missing, too long or not printable, because
    it goes into records, logs and metrics."""
    if not all(part and len(part) <= MAX_NAME and part.isprintable() for part in parts):
        return ""
    return f"{kind}:{'|'.join(part.replace('%', '%25').replace('|', '%7C') for part in parts)}"


class Principals:
    """``keys``: tenant by the sha256 of its key, 32 bytes. ``tokens``: verifies JSON web tokens."""

    def __init__(self, keys: Mapping[bytes, str], tokens: Tokens | None) -> None:
        # Digests are looked up blinded: how long that takes tells nothing of the digests that are there.
        self._blind = os.urandom(32)
        self._keys = {self._blinded(digest): principal("key", tenant) for digest, tenant in keys.items()}
        self._tokens = tokens

    @classmethod
    def from_settings(cls, settings: Settings) -> Principals:
        """Reads the files that PREHEAT_API_KEYS and PREHEAT_JWT_KEYS name. Raises SettingsError."""
        tokens = None
        if settings.jwt_keys:
            from .bearer import Tokens  # most deployments have none

            tokens = Tokens.from_settings(settings)
        elif settings.jwt_issuer or settings.jwt_audience:
            raise SettingsError(
                "PREHEAT_JWT_ISSUER and PREHEAT_JWT_AUDIENCE mean nothing without PREHEAT_JWT_KEYS"
            )
        return cls(read_keys(settings.api_keys) if settings.api_keys else {}, tokens)

    @property
    def required(self) -> bool:
        """Whether a request needs credentials."""
        return bool(self._keys) or self._tokens is not None

    @property
    def cheap(self) -> bool:
        """Whether ``of`` takes microseconds: tokens have signatures, and keys to fetch."""
        return self._tokens is None

    def of(self, headers: Mapping[str, str], platform: str = "") -> str:
        """The principal of a request. ``headers``: names in lower case. ``platform``: the one that the
        platform verified, if it did; it stands, and credentials in the headers are then not looked at.

        Raises UnauthenticatedError for credentials that are missing or not accepted where any are required,
        and UnavailableError where the keys to check a token with cannot be had.
        """
        if platform or not self.required:
            return platform
        import hashlib  # it brings OpenSSL, which nobody needs where there are no keys

        credential = self._credential(headers)
        tenant = self._keys.get(self._blinded(hashlib.sha256(credential.encode()).digest()))
        if tenant is not None:
            return tenant
        if self._tokens is None:
            raise UnauthenticatedError("the API key is not known here")
        return self._tokens.principal(credential)

    def _credential(self, headers: Mapping[str, str]) -> str:
        """The key or token of a request: what Authorization carries, else x-api-key."""
        scheme, _, credential = headers.get("authorization", "").strip().partition(" ")
        if not scheme and self._keys:
            credential = headers.get("x-api-key", "").strip()
        elif scheme and scheme.lower() != "bearer":
            raise UnauthenticatedError("the Authorization header must be 'Bearer …'")
        credential = credential.strip()
        if not credential:
            where = "'Authorization: Bearer …'" + (" or 'x-api-key: …'" if self._keys else "")
            raise UnauthenticatedError(f"this server wants credentials: send {where}")
        if len(credential) > MAX_CREDENTIAL:
            raise UnauthenticatedError(f"credentials are longer than {MAX_CREDENTIAL} characters")
        if not credential.isascii() or not credential.isprintable() or " " in credential:
            raise UnauthenticatedError("credentials must be one printable ASCII word, sent in one header")
        return credential

    def _blinded(self, digest: bytes) -> bytes:
        import hashlib

        return hashlib.blake2b(digest, key=self._blind).digest()


def read_keys(path: str) -> dict[bytes, str]:
    """The tenants of a key file, ``{"acme": "sha256:…", "beta": ["sha256:…"]}``, by their keys' digests.
    Raises SettingsError; no message repeats what the file holds, because that may be a key."""

    def bad(said: str) -> SettingsError:
        return SettingsError(f"PREHEAT_API_KEYS: {path}: {said}")

    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_KEYS_BYTES + 1)
    except OSError as error:
        raise bad(f"cannot be read: {error.strerror}") from error
    if len(data) > _MAX_KEYS_BYTES:
        raise bad(f"is larger than {_MAX_KEYS_BYTES} bytes")
    try:
        document = json.loads(data, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise bad(
            'is not JSON: it holds {"TENANT": "sha256:…"}; `preheat key TENANT` makes an entry'
        ) from None
    # An object came as a list of its pairs, so that a tenant that is there twice is seen; a list did not.
    if not isinstance(document, list) or not all(isinstance(pair, tuple) for pair in document):
        raise bad('must hold one object: {"TENANT": "sha256:…"}')
    found: dict[bytes, str] = {}
    tenants: set[str] = set()
    for number, (tenant, value) in enumerate(document, 1):
        if tenant in tenants or not principal("key", tenant):
            raise bad(f"tenant number {number} is there twice, or its name is not 1 to {MAX_NAME} characters")
        tenants.add(tenant)
        for entry in value if isinstance(value, list) else [value]:
            digest = _digest(entry)
            if digest is None:
                raise bad(
                    f"tenant number {number} has an entry that is not 'sha256:' and 64 hexadecimal digits; "
                    "the file never holds a key itself: `preheat key TENANT` makes both"
                )
            if digest in found:
                raise bad(f"tenant number {number} has a key that is there already")
            found[digest] = tenant
    if not found:
        raise bad("names no key, so nobody could send anything: `preheat key TENANT` makes one")
    return found


def new_key() -> tuple[str, str]:
    """A key, and the entry of PREHEAT_API_KEYS for it. 256 random bits: a plain digest of them is safe."""
    import secrets

    key = f"pk_{secrets.token_urlsafe(32)}"
    import hashlib

    return key, _DIGEST + hashlib.sha256(key.encode()).hexdigest()


def _digest(entry: Any) -> bytes | None:
    if not isinstance(entry, str) or not entry.startswith(_DIGEST):
        return None
    text = entry.removeprefix(_DIGEST)
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        return None
    return bytes.fromhex(text)


def lambda_principal(event: Mapping[str, Any], claim: str = "sub") -> str:
    """Who sent the HTTP request in a Lambda event, as far as API Gateway (payload formats 1.0 and 2.0) or a
    Function URL verified it; empty where nobody did, as behind a load balancer.

    ``claim``: the claim that names the tenant in a token. Only ``requestContext`` is read, which the platform
    writes; never a header.
    """
    context = _object(event.get("requestContext"))
    authorizer = _object(context.get("authorizer"))
    own = _object(authorizer.get("lambda")) or authorizer
    claims = _object(_object(authorizer.get("jwt")).get("claims")) or _object(authorizer.get("claims"))
    iam, identity = _object(authorizer.get("iam")), _object(context.get("identity"))
    cognito = _text(_object(iam.get("cognitoIdentity")), "identityId") or _text(identity, "cognitoIdentityId")
    return (
        principal("authorizer", _text(own, "principalId"))
        or principal("jwt", _text(claims, "iss"), _text(claims, claim))
        or principal("cognito", cognito)
        or principal("iam", _role(_text(iam, "userArn") or _text(identity, "userArn")))
    )


def _role(arn: str) -> str:
    """An assumed role without its session's name: whoever assumes a role chooses that name, and the same
    service has another one on each of its machines."""
    if ":assumed-role/" not in arn:
        return arn
    head, _, rest = arn.partition(":assumed-role/")
    return f"{head}:assumed-role/{rest.partition('/')[0]}"


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""
