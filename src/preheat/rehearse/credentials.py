"""Credentials that tell whether a clone still has those of before its snapshot."""

from __future__ import annotations


def secrets_of(clone: int) -> dict[str, str]:
    """Credentials of a clone, 0 for before the snapshot; no AWS account has them."""
    return {
        "AccessKeyId": f"ASIAREHEARSAL{clone:07d}",
        "SecretAccessKey": f"rehearsal-secret-of-clone-{clone:07d}",
        "Token": f"rehearsal-token-of-clone-{clone:07d}",
    }
