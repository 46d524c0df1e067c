"""Long work in Python, such as decoding megabytes of JSON: in pieces, and others that go first have the
interpreter between them.

What works so calls ``pause`` and knows neither for whom it works nor who is about: ``Pauses`` does.
"""

from __future__ import annotations

import gc
import sys
import time
from _thread import _local, allocate_lock  # what `threading` has them from; no more of that is needed
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .admission import Admission, Place

Result = TypeVar("Result")
ALLOWED_S = 0.3
"""What pauses may last together beyond what the work has taken."""
SUSPENDED_S = 2.0
"""Work that begins later than this after another's has its garbage collected, so that some is."""
COPY, KEPT = 4 * 1024 * 1024, 32 * 1024 * 1024
"""Bytes of a copy that takes long, and of one whose memory glibc gives back at once when it is free."""
_PART = 64 * 1024
_LOOK_S = 0.001
_AT_ONCE = 16 * 1024
"""Objects that are freed at once."""
_NESTED = frozenset((list, dict))
_work = _local()


def pause() -> None:
    """A piece is done."""
    current: Pauses | None = getattr(_work, "current", None)
    if current is not None:
        current.take()


def large() -> None:
    """Millions of objects will be made of a request. No garbage is collected until that work is over: whoever
    collects looks at all of them in one go."""
    current: Pauses | None = getattr(_work, "current", None)
    if current is not None:
        current.large()


def made(document: Any) -> None:
    """These are they. Nobody needs them if the request is refused."""
    current: Pauses | None = getattr(_work, "current", None)
    if current is not None:
        current.documents.append(document)


def room(size: int) -> None:
    """A copy of so many bytes will be made. Most of its time would go to the kernel, which has to find memory
    for it: that is done here, without the interpreter, and the allocator keeps what it was given."""
    if COPY <= size < KEPT:
        b"".join([bytes(_PART)] * (size // _PART + 1))  # CPython lets go of the interpreter to join as many


def width(text: str) -> int:
    """Bytes of each character, going by a text of some length; 1 for a shorter one."""
    return sys.getsizeof(text) // len(text) if len(text) > 100 else 1


def joined(parts: Sequence[str]) -> str:
    """One text of all these."""
    room(max(map(width, parts), default=1) * sum(map(len, parts)))
    return "".join(parts)


class Pauses:
    """Of one thread, at work for a request. They take as long as the work at most, and ALLOWED_S."""

    def __init__(self, admission: Admission, place: Place) -> None:
        self._admission = admission
        self._place = place
        self._counted = time.thread_time()
        self._left = ALLOWED_S
        self._large = False
        self.documents: list[Any] = []

    def within(self, work: Callable[[], Result]) -> Result:
        """What the work gives; the CPU time that it takes counts as used by its tenant."""
        _work.current = self
        try:
            return work()
        except BaseException:
            self._let_go()
            raise
        finally:
            _work.current = None
            self.documents.clear()
            if self._large:
                _resume()
            self._count()

    def large(self) -> None:
        self._large = self._large or _suspend()

    def take(self) -> None:
        self._left += self._count()
        while self._left > 0 and self._admission.holds(self._place.tenant):
            time.sleep(_LOOK_S)
            self._left -= _LOOK_S

    def _let_go(self) -> None:
        """Free the documents a piece at a time."""
        freed = 0
        while 0 < len(self.documents) <= _AT_ONCE:
            values = self.documents.pop()
            if type(values) is dict:
                self.documents.append(list(values.values()))
                values.clear()
            elif type(values) is list:
                some = values[-_AT_ONCE:]
                del values[-_AT_ONCE:]
                if values:
                    self.documents.append(values)
                if _NESTED & set(map(type, some)):
                    self.documents += [value for value in some if type(value) in _NESTED]
                freed += len(some)
            if freed > _AT_ONCE:
                freed = 0
                self.take()

    def _count(self) -> float:
        now = time.thread_time()
        took, self._counted = now - self._counted, now
        self._admission.used(self._place, took)
        return took


_lock = allocate_lock()
_large = 0
"""Works under way for which no garbage is collected."""
_since = 0.0
"""``time.perf_counter`` since when none has been."""


def _suspend() -> bool:
    """Whether no garbage is collected for the sake of one more: not if there was none for SUSPENDED_S."""
    global _large, _since
    with _lock:
        now = time.perf_counter()
        if _large:
            if now > _since + SUSPENDED_S:
                return False
        elif not gc.isenabled():  # it is the start that sees to that
            return False
        else:
            gc.disable()
            _since = now
        _large += 1
        return True


def _resume() -> None:
    global _large
    with _lock:
        _large -= 1
        if not _large:
            gc.enable()
