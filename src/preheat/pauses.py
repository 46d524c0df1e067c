"""Long work in Python, such as decoding megabytes of JSON: in pieces, and others that go first have the
interpreter between them.

What works so calls ``pause`` and knows neither for whom it works nor who is about: ``Pauses`` does.
"""

from __future__ import annotations

import gc
import time
from _thread import _local, allocate_lock  # what `threading` has them from; no more of that is needed
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .admission import Admission, Place

Result = TypeVar("Result")
ALLOWED_S = 0.3
"""What pauses may last together beyond what the work has taken."""
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
                _collect(+1)
            self._count()

    def large(self) -> None:
        if not self._large:
            self._large = True
            _collect(-1)

    def take(self) -> None:
        self._left += self._count()
        while self._left > 0 and self._admission.holds(self._place.tenant):
            time.sleep(_LOOK_S)
            self._left -= _LOOK_S

    def _let_go(self) -> None:
        """Free the documents a piece at a time."""
        freed = 0
        while self.documents:
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
"""Works under way that make millions of objects."""
_collects = False
"""Whether garbage was collected before them."""


def _collect(by: int) -> None:
    """One work of that kind more (-1), or less (+1)."""
    global _large, _collects
    with _lock:
        if not _large:
            _collects = gc.isenabled()
            gc.disable()
        _large -= by
        if not _large and _collects:
            gc.enable()
