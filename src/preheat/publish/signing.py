"""Signing a release: an ed25519 key in, DSSE envelopes out. What checks them is preheat.trust."""

from __future__ import annotations

import base64
import json
from typing import Any

from ..errors import UsageError
from ..trust import MAX_KEY_BYTES, PAYLOAD_TYPE, PREFIX, encode, key_id


class Signer:
    """``path``: a private key in PEM (`openssl genpkey -algorithm ed25519`). Raises UsageError."""

    def __init__(self, path: str) -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        except ImportError as missing:
            raise UsageError("--sign needs cryptography: pip install 'preheat[sign]'") from missing
        try:
            with open(path, "rb") as file:
                key = load_pem_private_key(file.read(MAX_KEY_BYTES), password=None)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError):
            raise UsageError(f"{path} is not a private key in PEM without a passphrase") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(
                f"{path} is another kind of key: make one with `openssl genpkey -algorithm ed25519`"
            )
        self._key = key
        raw = key.public_key().public_bytes_raw()
        self.key_id = key_id(raw)
        self.public = PREFIX + base64.b64encode(raw).decode()
        """As PREHEAT_TRUST takes it."""

    def sign(self, statement: dict[str, Any]) -> dict[str, Any]:
        """The envelope over a statement (trust.statement)."""
        payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
        return {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [
                {
                    "keyid": self.key_id,
                    "sig": base64.b64encode(self._key.sign(encode(payload))).decode(),
                }
            ],
        }

    def signed(self, envelope: dict[str, Any] | None) -> bool:
        """Whether an envelope is of this key."""
        try:
            return envelope is not None and any(
                entry["keyid"] == self.key_id for entry in envelope["signatures"]
            )
        except (KeyError, TypeError):
            return False
