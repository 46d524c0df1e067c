"""Signatures: who says that a version may run, under which name and alias, and since when.

A signature is a DSSE envelope (https://github.com/secure-systems-lab/dsse) with ed25519 over a statement:
name, version, manifest, alias, epoch. The manifest's digest is in it because a version leaves out the
measurements, by which a variant is chosen. An alias carries a signature over its own document's values; a
version that is named by its digits one with no alias and epoch 0. What an alias named once and no longer
names is refused by its epoch: it must reach the floor that the deployment sets, and the highest seen (the
high-water mark).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

from .errors import SettingsError, TrustError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.preheat.release+json"
PREFIX = "ed25519:"
MAX_ENVELOPE_BYTES = 64 * 1024
MAX_KEY_BYTES = 16 * 1024


def statement(name: str, version: str, alias: str, epoch: int, manifest: str = "") -> dict[str, Any]:
    """What a signature covers. ``version``: 64 hexadecimal digits; ``manifest``: ``sha256:…`` over its bytes,
    empty where that is what is asked for."""
    said = {"name": name, "version": f"sha256:{version}", "alias": alias, "epoch": epoch}
    return {**said, "manifest": manifest} if manifest else said


def encode(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(raw: bytes) -> str:
    """A public key's name: the first half of its sha256."""
    return hashlib.sha256(raw).hexdigest()[:32]


class Trust:
    """The keys that a deployment trusts: PREHEAT_TRUST, a list with commas of PEM files and ``ed25519:`` with
    the key in base64. Raises SettingsError for what is no such key."""

    def __init__(self, keys: str) -> None:
        self._keys: dict[str, Ed25519PublicKey] = {}
        for text in filter(None, (part.strip() for part in keys.split(","))):
            key = _public_key(text)
            self._keys[key_id(key.public_bytes_raw())] = key
        if not self._keys:
            raise SettingsError("PREHEAT_TRUST names no key")

    def check(self, envelope: dict[str, Any] | None, wanted: dict[str, Any], what: str) -> str:
        """The digest of the manifest, where a trusted key signed this very statement. Raises TrustError."""
        from cryptography.exceptions import InvalidSignature

        if envelope is None:
            raise TrustError(f"{what} is not signed, and PREHEAT_TRUST asks for it: publish with --sign KEY")
        try:
            payload = base64.b64decode(envelope["payload"], validate=True)
            kind = envelope["payloadType"]
            signatures = [
                (str(entry["keyid"]), base64.b64decode(entry["sig"], validate=True))
                for entry in envelope["signatures"]
            ]
        except (KeyError, TypeError, ValueError):
            raise TrustError(f"{what}: the signature is not a DSSE envelope") from None
        if kind != PAYLOAD_TYPE:
            raise TrustError(f"{what}: the signature is over another thing: {str(kind)[:100]!r}")
        for identity, signature in signatures:
            key = self._keys.get(identity)
            if key is not None:
                try:
                    key.verify(signature, encode(payload))
                except InvalidSignature:
                    raise TrustError(
                        f"{what}: the signature does not match what key {identity} signed"
                    ) from None
                break
        else:
            by = ", ".join(identity[:32] for identity, _ in signatures) or "nobody"
            raise TrustError(f"{what} is signed by {by}; PREHEAT_TRUST names {', '.join(self._keys)}")
        try:
            said = json.loads(payload)
        except (ValueError, RecursionError):
            said = None
        digest = said.get("manifest") if isinstance(said, dict) else None
        if not isinstance(digest, str) or said != {"manifest": digest, **wanted}:
            raise TrustError(f"{what}: the signature is valid, and over {_short(said)}, not {_short(wanted)}")
        return digest


def parse_envelope(data: bytes, where: str) -> dict[str, Any]:
    """A stored envelope. Raises TrustError for another thing."""
    try:
        envelope = json.loads(data)
    except (ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict):
        raise TrustError(f"{where} is not a DSSE envelope")
    return envelope


def _short(said: Any) -> str:
    if not isinstance(said, dict):
        return "no statement"
    version = str(said.get("version")).removeprefix("sha256:")[:12]
    alias, epoch, manifest = said.get("alias"), said.get("epoch"), said.get("manifest")
    named = f"{said.get('name')}@{version}" + (f" as {alias} in epoch {epoch}" if alias else "")
    return named + (f" with the manifest {str(manifest)[:19]}" if manifest else "")


def _public_key(text: str) -> Ed25519PublicKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as missing:
        raise SettingsError("PREHEAT_TRUST needs cryptography: pip install 'preheat[sign]'") from missing
    try:
        if text.startswith(PREFIX):
            raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
            return Ed25519PublicKey.from_public_bytes(raw)
        with open(text, "rb") as file:
            key = load_pem_public_key(file.read(MAX_KEY_BYTES))
    except OSError as error:
        raise SettingsError(f"PREHEAT_TRUST: {text} cannot be read: {error.strerror}") from error
    except ValueError:
        raise SettingsError(f"PREHEAT_TRUST: {text[:60]} is not an ed25519 public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"PREHEAT_TRUST: {text} is another kind of key than ed25519")
    return key
