"""What the gateway holds for bodies that are gone."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import ctypes
from preheat.local.gateway import give_back_large_blocks

class Info(ctypes.Structure):  # mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
{}
body = bytes(20 << 20)
del body  # by itself, glibc keeps up to 32 MiB in its heap from now on
held = libc.mallinfo2().hblkhd
body = bytes(8 << 20)
print(libc.mallinfo2().hblkhd - held)
"""


def own_mapping(call: str) -> int:
    """Bytes that lie outside the heap for a body of 8 MiB, after a larger one was freed."""
    done = subprocess.run([sys.executable, "-c", LOOK.format(call)], stdout=subprocess.PIPE, check=True)
    return int(done.stdout)


def test_a_large_body_has_a_mapping_of_its_own_always() -> None:
    assert own_mapping("") == 0
    assert own_mapping("give_back_large_blocks()") >= 8 << 20
