"""JSON web tokens: whose they are, by keys that the deployment names (RFC 7519, RFC 8725).

PyJWT verifies; what is ours is which keys and algorithms may: asymmetric ones only, chosen by the key and
never by the token. PyJWT and cryptography are imported with the first token.
"""

from __future__ import annotations

import json
import time
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .errors import SettingsError, UnauthenticatedError, UnavailableError
from .principals import principal
from .settings import Settings

if TYPE_CHECKING:
    from jwt.algorithms import AllowedPublicKeys

LEEWAY_S = 10
"""By how much another machine's clock may be off."""
FRESH_S = 300.0
"""Seconds for which fetched keys are used without asking again."""
STALE_S = 3600.0
"""Seconds for which fetched keys are still used while they cannot be fetched anew."""
RETRY_S = 10.0
"""Least seconds between two fetches, whatever tokens come."""
_TIMEOUT_S = 5.0
_MAX_BYTES = 1024**2
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_WHERE = "a JWKS file, a PEM file of a public key, or an https:// URL of a JWKS"


class Key(NamedTuple):
    kid: str | None
    algorithms: tuple[str, ...]
    key: AllowedPublicKeys


class Keys(Protocol):
    def find(self, kid: str | None) -> list[Key]:
        """The keys that a token with this key id may be signed with; none for one that is not known. Raises
        UnavailableError where they cannot be had."""
        ...


class Tokens:
    """Verifies tokens of one issuer. ``audience``: any of these must be named; none: it is not looked at."""

    def __init__(self, keys: Keys, *, issuer: str, audience: tuple[str, ...], claim: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._claim = claim

    @classmethod
    def from_settings(cls, settings: Settings) -> Tokens:
        """Imports nothing yet, and asks no server. Raises SettingsError."""
        if not settings.jwt_issuer or not settings.jwt_audience:
            raise SettingsError(
                "PREHEAT_JWT_KEYS needs PREHEAT_JWT_ISSUER and PREHEAT_JWT_AUDIENCE (* where the issuer "
                "writes none): else a token that was made for another service would be let in"
            )
        if not settings.jwt_claim:
            raise SettingsError("PREHEAT_JWT_CLAIM must name a claim")
        from importlib.util import find_spec

        if find_spec("jwt") is None or find_spec("cryptography") is None:
            raise SettingsError("PREHEAT_JWT_KEYS needs PyJWT and cryptography: pip install 'preheat[auth]'")
        audience = tuple(filter(None, (part.strip() for part in settings.jwt_audience.split(","))))
        return cls(
            _keys(settings.jwt_keys),
            issuer=settings.jwt_issuer,
            audience=() if audience == ("*",) else audience,
            claim=settings.jwt_claim,
        )

    def principal(self, token: str) -> str:
        """The token's principal, ``jwt:ISSUER|CLAIM``. Raises UnauthenticatedError, UnavailableError."""
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            candidates = [k for k in self._keys.find(header.get("kid")) if algorithm in k.algorithms]
            if not candidates or "crit" in header:
                raise UnauthenticatedError("the token names no key and algorithm that are accepted here")
            claims = jwt.decode(
                token,
                candidates[0].key,
                algorithms=list(candidates[0].algorithms),
                issuer=self._issuer,
                audience=self._audience or None,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", self._claim], "verify_aud": bool(self._audience)},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("the token has expired") from None
        except jwt.ImmatureSignatureError:
            raise UnauthenticatedError("the token is not valid yet") from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
            raise UnauthenticatedError("the token is of another issuer, or for another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise UnauthenticatedError(f"the token has no {error.claim!r}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise UnauthenticatedError("the token is not valid") from None
        value = claims[self._claim]
        name = principal("jwt", self._issuer, value) if isinstance(value, str) else ""
        if not name:
            raise UnauthenticatedError(f"the token's {self._claim!r} is no name of a tenant")
        return name


class FileKeys:
    """Keys of a file that was read at the start; parsed with the first token."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._keys: list[Key] = []

    def find(self, kid: str | None) -> list[Key]:
        if not self._keys:
            try:
                self._keys = pem_keys(self._data) if b"-----BEGIN" in self._data else jwks_keys(self._data)
            except ValueError as error:
                raise UnavailableError(
                    f"the server's keys for tokens cannot be used: {error}", code="keys_unavailable"
                ) from error
        return _matching(self._keys, kid)


class RemoteKeys:
    """Keys of a JWKS server: fetched with the first token, and again when they are old or a key id is not
    among them, by one thread at a time and at most every ``RETRY_S``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: list[Key] = []
        self._fetched = self._tried = float("-inf")
        self._error = ""
        self._lock = Lock()

    def find(self, kid: str | None) -> list[Key]:
        found = self._known(kid)
        if found and time.monotonic() - self._fetched < FRESH_S:
            return found
        # Who has a key that will do does not wait for another's fetch.
        if self._lock.acquire(blocking=not found):
            try:
                now = time.monotonic()
                old = now - self._fetched >= FRESH_S or not self._known(kid)
                if old and now - self._tried >= RETRY_S:
                    self._fetch()
            finally:
                self._lock.release()
        found = self._known(kid)
        if not found and self._error:
            raise UnavailableError(
                f"the keys to check tokens with cannot be fetched: {self._error}",
                code="keys_unavailable",
                retry_after=5,
            )
        return found

    def _known(self, kid: str | None) -> list[Key]:
        return _matching(self._keys, kid) if time.monotonic() - self._fetched < STALE_S else []

    def _fetch(self) -> None:
        self._tried = time.monotonic()
        try:
            self._keys = jwks_keys(_read(self._url))
        except (OSError, ValueError) as error:
            self._error = str(error) or type(error).__name__
        else:
            self._error = ""
            self._fetched = time.monotonic()


def jwks_keys(data: bytes) -> list[Key]:
    """The public keys of a JWKS (RFC 7517) that signatures may be checked with. Raises ValueError where there
    are none."""
    import jwt

    try:
        entries = json.loads(data)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("this is not a JWKS") from None
    found = []
    for entry in entries if isinstance(entries, list) else []:
        # A set may hold keys for other uses and of kinds to come (RFC 7517, 5): those are passed over.
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        public = {name: value for name, value in entry.items() if name != "d"}
        try:
            key = jwt.PyJWK(public).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        algorithms = _algorithms(key)
        if entry.get("alg") is not None:
            algorithms = tuple(a for a in algorithms if a == entry["alg"])
        if algorithms:
            kid = entry.get("kid")
            found.append(Key(kid if isinstance(kid, str) else None, algorithms, key))
    if not found:
        raise ValueError(
            "there is no key in it to check signatures with: RSA of 2048 bits or more, EC, Ed25519"
        )
    return found


def pem_keys(data: bytes) -> list[Key]:
    """The one public key of a PEM file. Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key: Any = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("this is not a public key in PEM") from None
    algorithms = _algorithms(key)
    if not algorithms:
        raise ValueError("no token can be signed with this key: RSA of 2048 bits or more, EC, Ed25519")
    return [Key(None, algorithms, key)]


def _algorithms(key: Any) -> tuple[str, ...]:
    """What tokens may be signed with, for a public key; none for a kind that is not accepted."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(key, RSAPublicKey) and key.key_size >= 2048:
        return ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
    if isinstance(key, EllipticCurvePublicKey):
        curves = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
        return curves.get(key.curve.name, ())
    return ("EdDSA",) if isinstance(key, Ed25519PublicKey) else ()


def _matching(keys: list[Key], kid: str | None) -> list[Key]:
    """The keys of that id; where there is one key without an id, that one."""
    if len(keys) == 1 and (keys[0].kid is None or kid is None):
        return keys
    return [key for key in keys if kid is not None and key.kid == kid]


def _keys(place: str) -> Keys:
    from urllib.parse import urlsplit

    if "://" in place:
        try:
            parts = urlsplit(place)
            secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        except ValueError:
            secure = False
        if not secure or not parts.hostname:
            raise SettingsError(f"PREHEAT_JWT_KEYS: {place[:100]!r} is not {_WHERE}")
        return RemoteKeys(place)
    try:
        with open(place, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"PREHEAT_JWT_KEYS: {place} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES or not (b"-----BEGIN PUBLIC KEY" in data or _looks_like_jwks(data)):
        raise SettingsError(f"PREHEAT_JWT_KEYS: {place} is not {_WHERE}")
    return FileKeys(data)


def _looks_like_jwks(data: bytes) -> bool:
    """Seen at the start, without what it takes to read the keys themselves."""
    try:
        return bool(json.loads(data)["keys"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _read(url: str) -> bytes:
    """The document at a URL. Raises OSError or ValueError; follows no redirect, which could lead anywhere."""
    from http.client import HTTPException
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    until = time.monotonic() + _TIMEOUT_S
    parts, size = [], 0
    try:
        request = Request(url, headers={"accept": "application/json"})  # noqa: S310 - https, or loopback
        with build_opener(Stay).open(request, timeout=_TIMEOUT_S) as response:
            while part := response.read1(64 * 1024):
                parts.append(part)
                size += len(part)
                if size > _MAX_BYTES:
                    raise ValueError(f"the answer is larger than {_MAX_BYTES} bytes")
                if time.monotonic() > until:
                    raise TimeoutError("the answer took too long")
    except HTTPException as error:
        raise OSError(f"not HTTP: {type(error).__name__}") from error
    return b"".join(parts)
