"""A fork as a snapshot is: by the system call alone, so that nothing in the process knows of it."""

from __future__ import annotations

import ctypes
import platform
import signal

_CLONE = {"x86_64": 56, "aarch64": 220}
"""The number of the system call ``clone``: fork's on every architecture, given SIGCHLD alone."""


def raw_fork() -> int:
    """Fork by the system call alone: neither libc's nor Python's handlers run in the child, which is not told
    that it is one. The interpreter lock is held throughout, so that the child has it."""
    number = _CLONE[platform.machine()]
    pid = ctypes.PyDLL(None, use_errno=True).syscall(number, int(signal.SIGCHLD), 0, 0, 0, 0)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "the process cannot be cloned")
    return int(pid)
