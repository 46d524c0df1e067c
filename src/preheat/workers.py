"""Threads that are started when there is work for them, as many as are wanted and no more than may be."""

from __future__ import annotations

import sys
from _queue import Empty, SimpleQueue  # what `queue` has it from; the rest of that module is not needed
from collections.abc import Callable
from threading import Lock, Thread

IDLE_S = 30.0
"""Seconds after which a thread without work ends."""


class Workers:
    """First come, first served. ``most``: threads that there may be at present."""

    def __init__(self, name: str, most: Callable[[], int]) -> None:
        self._name = name
        self._most = most
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = 0
        self._threads = 0
        self._lock = Lock()

    def put(self, work: Callable[[], None]) -> None:
        """Have it done; where every thread is busy and no more may be, when one is free."""
        with self._lock:
            start = self._idle <= self._work.qsize() and self._threads < max(self._most(), 1)
            self._threads += start
        self._work.put(work)
        if start:
            try:
                Thread(target=self._run, name=self._name, daemon=True).start()
            except RuntimeError:  # the system has no more of them
                with self._lock:
                    self._threads -= 1
                    if not self._threads:
                        raise

    def _run(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                work = self._work.get(timeout=IDLE_S)
            except Empty:
                with self._lock:
                    self._idle -= 1
                    if self._work.empty():
                        self._threads -= 1
                        return
                continue
            with self._lock:
                self._idle -= 1
            try:
                work()
            except Exception:  # a defect of ours: the thread serves others
                import traceback  # none is expected

                traceback.print_exc(file=sys.stderr)
