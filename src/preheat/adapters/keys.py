"""Idempotency keys over HTTP: the header, its scope, what it is a fingerprint of, and how long to wait.

Source: draft-ietf-httpapi-idempotency-key-header-07; RFC 7240 for ``Prefer``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..calls import Key
from ..errors import InvalidRequestError, SettingsError
from ..protocol import strict_json
from ..service import Service
from .body import read_body
from .messages import HttpRequest
from .routes import match

if TYPE_CHECKING:
    from ..bootstrap import Loaded

MAX_LENGTH = 255
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(r"[!#-+\--\[\]-~]+")  # visible ASCII without quotes, backslash and comma
_SORTED = json.JSONEncoder(sort_keys=True)
_FINGERPRINTED = ("content-type", "inference-header-content-length")


def read_key(service: Service, request: HttpRequest, tenant: str) -> Key | None:
    """The key of a request, None where it has none or the route takes none.

    Raises InvalidRequestError for a key that is malformed, or missing where one is required.
    """
    mode = service.modes.get(request.path, service.modes[""])
    if mode == "off":
        return None
    header = request.headers.get("idempotency-key")
    if header is None:
        if mode == "required":
            raise InvalidRequestError(
                "this route needs the header Idempotency-Key: a value of your own that is the same for every "
                "try of one request, a UUID, say",
                code="idempotency_key_missing",
            )
        return None
    key = _value(header)
    return Key(
        record_name(tenant, request.path, key),
        lambda loaded: _fingerprint(request, loaded),
        _wait(request.headers.get("prefer", "")),
    )


def check_modes(modes: Mapping[str, str]) -> None:
    """Hold the routes that PREHEAT_IDEMPOTENCY names against those that take a key. Raises SettingsError."""
    for path in modes:
        route = match(path).get("POST") if path else None
        if path and (route is None or route[0].prepare is None):
            raise SettingsError(
                f"PREHEAT_IDEMPOTENCY names {path}, which is no route that takes a key: those are /predict, "
                "/v1/embeddings, /v2/models/NAME/infer, /v2/models/NAME/versions/VERSION/infer and "
                "/v2/models/NAME/predict"
            )


def record_name(tenant: str, path: str, key: str) -> str:
    """The name of a key's record: the tenant's digest, a dot, the digest of route and key.

    So a tenant's records share a prefix that no other tenant can name.
    """
    return f"{tenant_prefix(tenant)}.{_digest(path, key)}"


def tenant_prefix(tenant: str) -> str:
    return _digest(tenant)


def preferences(header: str) -> dict[str, str]:
    """The preferences of a ``Prefer`` header, by name in lower case; of two of one name the first counts."""
    found: dict[str, str] = {}
    for part in header.split(","):
        name, _, value = part.partition(";")[0].partition("=")
        if name.strip():
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


def _value(header: str) -> str:
    """The key itself: a string of the draft's form (in quotes), or the bare one that most clients send."""
    quoted = _QUOTED.fullmatch(header)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header
    if not header or not key:
        raise InvalidRequestError("Idempotency-Key is empty", code="idempotency_key_malformed")
    if not quoted and not _BARE.fullmatch(header):
        raise InvalidRequestError(
            "Idempotency-Key must be one value of visible ASCII characters, in double quotes if it holds "
            "commas or spaces, and be sent once",
            code="idempotency_key_malformed",
        )
    if len(key) > MAX_LENGTH:
        raise InvalidRequestError(
            f"Idempotency-Key has {len(key)} characters; at most {MAX_LENGTH} are taken",
            code="idempotency_key_malformed",
        )
    return key


def _wait(header: str) -> float:
    """Seconds of ``Prefer: wait=N``; what is malformed is ignored, as RFC 7240 wants it."""
    value = preferences(header).get("wait", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 9 else 0.0


def _fingerprint(request: HttpRequest, loaded: Loaded) -> str:
    """The model's name, and sha256 over method, route, what shapes the answer, the canonical body, and the
    artifact's version.

    By the name a deferred request is told from those of other functions on the same ledger.

    Neither compression, nor white space, nor the order of an object's members makes another request.
    """
    body = read_body(request, loaded.max_bytes)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "application/json" and "inference-header-content-length" not in request.headers:
        body = strict_json.dumps(strict_json.loads(body), _SORTED).encode()
    shaping = [request.headers.get(name, "") for name in _FINGERPRINTED]
    version = loaded.engine.manifest.version
    digest = hashlib.sha256(
        "\n".join([request.method, request.path, version, *map(json.dumps, shaping), ""]).encode() + body
    ).hexdigest()
    return loaded.scope + digest


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
