"""Runs that outlast their deadline are ended: a loop in a graph may turn for ever, and hold a turn with it.

onnxruntime looks between two nodes of a graph, of a loop's body too, whether it shall go on; one node is
never interrupted. One thread watches all runs. It is there while there are runs and for a few looks more, so
that an idle instance burns nothing; before a snapshot it is told to rest.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

LOOK_S = 0.25
"""A run is ended this long after its deadline at the latest."""
QUIET = 8
"""Looks without a run after which the thread ends."""

ENDED = "terminate flag"
"""What onnxruntime's error says of a run that was ended."""


class Preemptible:
    """Runs that somebody may end so that another tenant's goes first. ``for_s``: after so many seconds from
    the first one's beginning, nobody may."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._until = 0.0
        self._ended = False
        self._options: Any = None
        self._lock = threading.Lock()

    def preempt(self) -> bool:
        """From any thread; whether that costs a run. One that is about to begin ends at its first node."""
        with self._lock:
            if self._ended or (self._until and time.perf_counter() >= self._until):
                return False
            self._ended = True
            if self._options is not None:
                self._options.terminate = True
            return self._options is not None or not self._until

    def begin(self, options: Any) -> None:
        """A run with these RunOptions begins."""
        with self._lock:
            self._options, options.terminate = options, self._ended
            self._until = self._until or time.perf_counter() + self._for_s

    def end(self) -> bool:
        """It is over; whether it was to end before its time."""
        with self._lock:
            ended, self._ended, self._options = self._ended, False, None
        return ended


class Watch:
    """The runs under way in this process. Each step of it is atomic under the interpreter's lock, so that it
    needs none that a fork could leave taken."""

    def __init__(self) -> None:
        self._runs: dict[int, tuple[float, Any]] = {}
        self._process = 0
        """Id of the process whose thread watches: a fork's child has none; 0 for none."""
        self._rest = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, until: float) -> Any:
        """RunOptions for a run that shall end at ``until``, of ``time.perf_counter``."""
        import onnxruntime as ort

        options = ort.RunOptions()
        options.log_severity_level = 4
        self._runs[id(options)] = (until, options)
        if self._process != os.getpid():
            self._process, self._rest = os.getpid(), threading.Event()
            self._thread = threading.Thread(
                target=self._look, args=(self._rest,), name="overrun", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError:  # no thread to be had now: this run goes unwatched, the next one tries again
                self._process, self._thread = 0, None
        return options

    def end(self, options: Any) -> None:
        """The run is over."""
        del self._runs[id(options)]

    def rest(self) -> None:
        """Leave no thread behind; the next run has one again. Not while there are runs."""
        if self._process == os.getpid() and self._thread is not None:
            self._rest.set()
            self._thread.join(LOOK_S)

    def _look(self, rest: threading.Event) -> None:
        quiet = 0
        while quiet < QUIET or not self._leave():
            told = rest.wait(LOOK_S)
            rest.clear()
            quiet = 0 if self._runs else QUIET if told else quiet + 1
            now = time.perf_counter()
            for until, options in list(self._runs.values()):
                if now > until:
                    options.terminate = True

    def _leave(self) -> bool:
        """Whether there is nothing to watch; a run that begins meanwhile has either seen that the thread
        leaves, or is seen here."""
        self._process = 0
        if not self._runs:
            return True
        self._process = os.getpid()
        return False
