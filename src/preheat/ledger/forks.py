"""What a fork does to a ledger's client: the child makes its own, and never touches its parent's."""

from __future__ import annotations

import os
from threading import Lock
from typing import Any
from weakref import WeakSet


class ForkAware:
    """``_lock`` guards what ``_before_fork`` and ``_forked`` look after; both run with it held or new."""

    def __init__(self) -> None:
        self._lock = Lock()
        _living.add(self)

    def _before_fork(self) -> None:
        """In the parent, before it forks."""

    def _forked(self) -> None:
        """In the child: let go of the parent's client without closing it."""


_living: WeakSet[ForkAware] = WeakSet()
_inherited: list[Any] = []


def keep_open(client: Any) -> None:
    """Keep a parent's client from being collected: that would speak on the parent's connection."""
    _inherited.append(client)


class _Forking:
    """One fork at a time, with every ledger's lock held: no child starts with a lock that nobody releases."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: list[ForkAware] = []

    def before(self) -> None:
        self._lock.acquire()
        for ledger in list(_living):
            ledger._lock.acquire()
            self._held.append(ledger)
            ledger._before_fork()

    def in_parent(self) -> None:
        while self._held:
            self._held.pop()._lock.release()
        self._lock.release()

    def in_child(self) -> None:
        while self._held:
            ledger = self._held.pop()
            ledger._lock = Lock()
            ledger._forked()
        self._lock = Lock()


_forking = _Forking()
os.register_at_fork(
    before=_forking.before, after_in_parent=_forking.in_parent, after_in_child=_forking.in_child
)
