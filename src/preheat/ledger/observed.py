"""A ledger whose calls are counted and timed, by what came of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from . import Claim, Claimed, InProgress, Ledger, Mismatch, Pending, Record, Replay

if TYPE_CHECKING:
    from ..telemetry import Telemetry

T = TypeVar("T")

_CLAIMS: dict[type[Claim], str] = {
    Claimed: "claimed",
    InProgress: "in_progress",
    Replay: "replay",
    Mismatch: "mismatch",
}


def observed(ledger: Ledger, telemetry: Telemetry) -> Ledger:
    """The same ledger; its calls leave a mark with whoever watches."""
    return cast(Ledger, _Observed(ledger, telemetry))


class _Observed:
    """What is not timed is the ledger's own."""

    def __init__(self, ledger: Ledger, telemetry: Telemetry) -> None:
        self._ledger = ledger
        self._telemetry = telemetry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def claim(self, *args: Any, **kwargs: Any) -> Claim:
        return self._timed(
            "claim", lambda: self._ledger.claim(*args, **kwargs), lambda claim: _CLAIMS[type(claim)]
        )

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        return self._timed(
            "heartbeat",
            lambda: self._ledger.heartbeat(key, fence, lease=lease),
            lambda held: "renewed" if held else "lost",
        )

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._timed(
            "commit",
            lambda: self._ledger.commit(key, fence, outcome, keep=keep),
            lambda stands: "committed" if stands == outcome else "lost",
        )

    def release(self, key: str, fence: str) -> bool:
        return self._timed(
            "release",
            lambda: self._ledger.release(key, fence),
            lambda held: "released" if held else "lost",
        )

    def read(self, key: str) -> Record | None:
        return self._timed("read", lambda: self._ledger.read(key), lambda found: "found" if found else "none")

    def cancel(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._timed(
            "cancel",
            lambda: self._ledger.cancel(key, fence, outcome, keep=keep),
            lambda stands: "none" if stands is None else "cancelled" if stands == outcome else "lost",
        )

    def pending(self, limit: int) -> list[Pending]:
        return self._timed("pending", lambda: self._ledger.pending(limit), lambda _: "ok")

    def _timed(self, name: str, call: Callable[[], T], result: Callable[[T], str]) -> T:
        began_ns = time.perf_counter_ns()
        told = "error"
        try:
            found = call()
            told = result(found)
            return found
        finally:
            self._telemetry.operation(name, told, began_ns)
