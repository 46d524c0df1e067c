"""What the ledgers behind a network share: a client made by the first call, and calls that are repeated.

A call whose connection broke may have happened. Every operation carries its fence, so it is sent again until
a deadline; what another try cannot change is raised at once.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import Generic, TypeVar

from ..errors import LedgerError, SettingsError
from .forks import ForkAware, keep_open

CALL_S = 2.0
"""Seconds without an answer after which one try is given up."""
DEADLINE_S = 5.0
"""Seconds after which a call is not tried again."""
ATTEMPTS = 8

C = TypeVar("C")
T = TypeVar("T")


class Remote(ForkAware, ABC, Generic[C]):
    """``name``: the store as messages name it, without its password. Raises SettingsError where the client's
    package is not there; it is not imported before the first call."""

    package: str
    extra: str
    """Of preheat, which brings the package."""

    def __init__(self, name: str) -> None:
        if find_spec(self.package) is None:
            raise SettingsError(f"{name} needs {self.package}: pip install 'preheat[{self.extra}]'")
        super().__init__()
        self.name = name
        self._client: C | None = None

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            self._shut(client)

    @abstractmethod
    def _make(self) -> C:
        """A client, safe to call from several threads."""

    @abstractmethod
    def _shut(self, client: C) -> None:
        """Close a client."""

    @abstractmethod
    def _said(self, error: Exception) -> tuple[str, bool] | None:
        """A client's error in words, and whether another try may help; None for anybody else's error."""

    def _call(self, do: Callable[[C], T]) -> T:
        """What ``do`` gives; repeated while its fate is unknown. Raises LedgerError."""
        until = time.monotonic() + DEADLINE_S
        attempt = 0
        while True:
            try:
                return do(self._connected())
            except LedgerError:
                raise
            except Exception as error:
                said = self._said(error)
                if said is None:
                    raise
                words, again = said
                attempt += 1
                delay = min(0.02 * 2**attempt, 1.0) * random.uniform(0.5, 1.5)  # noqa: S311 - spreads clients
                if not again or attempt >= ATTEMPTS or time.monotonic() + delay > until:
                    raise LedgerError(f"the ledger {self.name} {words}") from error
                time.sleep(delay)

    def _connected(self) -> C:
        client = self._client
        if client is None:
            with self._lock:
                try:
                    client = self._client = self._client or self._make()
                except ImportError as error:  # of what the package needs itself
                    raise LedgerError(
                        f"the ledger {self.name} cannot be used: {first_line(error)}"
                    ) from error
        return client

    def _forked(self) -> None:
        if self._client is not None:
            keep_open(self._client)
            self._client = None


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
