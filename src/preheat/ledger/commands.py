"""`preheat ledger init` and `preheat ledger check`, as the command line calls them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from ..errors import UsageError
from ..settings import Settings
from . import Ledger, open_ledger


def init(url: str | None, *, as_json: bool) -> None:
    """Make the table or schema, or bring it up to date."""
    _run(url, "ready", lambda ledger: ledger.init(), as_json)


def check(url: str | None, *, as_json: bool) -> None:
    """Say what is missing or old; raises LedgerError, status 1."""
    _run(url, "in order", lambda ledger: ledger.check(), as_json)


def _run(url: str | None, verdict: str, do: Callable[[Ledger], None], as_json: bool) -> None:
    settings = Settings.from_environ(os.environ)
    place = url or settings.ledger
    if not place:
        raise UsageError("name a ledger: its URL as the argument, or PREHEAT_LEDGER=URL")
    ledger = open_ledger(place, blobs=settings.ledger_blobs)
    try:
        do(ledger)
    finally:
        ledger.close()
    if as_json:
        found = {
            "ledger": ledger.name,
            "status": verdict,
            "durability": ledger.durability,
            "limit": ledger.limit,
        }
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    sys.stdout.write(
        f"the ledger {ledger.name} is {verdict}\n"
        f"durability  {ledger.durability}\n"
        f"limit       {ledger.limit} bytes for one outcome\n"
    )
