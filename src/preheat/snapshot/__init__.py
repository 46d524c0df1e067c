"""Snapshots: what is done before one is taken, and after a process was restored from it.

::

    from preheat import snapshot

    @snapshot.before
    def close_clients() -> None: ...

    @snapshot.after
    def open_clients() -> None: ...
"""

from .hooks import after as after
from .hooks import before as before
