"""The page cache, dropped before a start: what a node that has never run the function pays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import UsageError

DROP = "/proc/sys/vm/drop_caches"


class Dropper(NamedTuple):
    how: str
    """``kernel``: everything; ``fadvise``: the files that a start reads, as far as no other process maps
    them."""
    drop: Callable[[], None]


def dropper(files: Sequence[str], *, switch: str = DROP) -> Dropper:
    """The way to drop caches that this system allows: the kernel's switch (proc_sys_vm(5)), else
    posix_fadvise(2) on ``files``. Raises UsageError where there is neither."""
    try:
        _by_switch(switch)
    except OSError:
        if not hasattr(os, "posix_fadvise"):
            raise UsageError(
                f"--drop-caches: {switch} cannot be written and this system has no posix_fadvise; "
                "run as root, or leave the option out"
            ) from None
        return Dropper("fadvise", lambda: _by_advice(files))
    return Dropper("kernel", lambda: _by_switch(switch))


def _by_switch(switch: str) -> None:
    os.sync()  # only clean pages are dropped
    with open(switch, "w") as file:
        file.write("3\n")


def _by_advice(files: Sequence[str]) -> None:
    os.sync()
    for path in files:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # gone, or not ours to read: then the start reads nothing of it either
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
