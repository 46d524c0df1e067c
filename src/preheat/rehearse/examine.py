"""What is in a process that must not be in a snapshot, by name. Runs inside the function's own process.

Objects are found by the collector's lists, and named by the module whose attribute leads to them.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from .credentials import secrets_of

_ID = re.compile(r"[0-9a-f]{16,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DEPTH = 5
"""How many references an owner may be away."""


class Baseline:
    """What the process had before the function was imported, and when that was."""

    def __init__(self) -> None:
        listed = os.listdir("/proc/self/fd")
        # The descriptor that listed them is closed by now, and its number free for somebody else.
        self.descriptors = {name for name in listed if os.path.lexists(f"/proc/self/fd/{name}")}
        self.started_ns, self.started_at = time.perf_counter_ns(), time.time()
        self.taken_ns, self.taken_at = 0, 0.0


def snapshot(baseline: Baseline, folder: str, control: int) -> dict[str, Any]:
    """What is open, runs or is held when the snapshot is taken."""
    gc.unfreeze()  # what was frozen is not in the collector's lists
    own = {str(control)} | baseline.descriptors
    return {
        **_descriptors(own),
        "clients": _clients(),
        "threads": _threads(),
        "leases": [*_locks(), *_claims()],
        "seeds": _seeds(),
        "ids": _ids(folder),
    }


def restored(baseline: Baseline, folder: str, *, search: bool) -> dict[str, Any]:
    """What a clone has after its hooks. ``search``: look through all of its objects for what is of before the
    snapshot, which takes a while."""
    found: dict[str, Any] = {"seeds": {**_seeds(), **_uuid1()}, "ids": _ids(folder)}
    if search:
        found["credentials"] = _holders(set(secrets_of(0).values()))
        found["clocks"] = _clocks(baseline, folder)
    return found


# Descriptors


def _descriptors(own: set[str]) -> dict[str, list[str]]:
    sockets: list[str] = []
    files: list[str] = []
    objects = {s.fileno(): s for s in _instances(socket.socket) if s.fileno() >= 0}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            with open(f"/proc/self/fdinfo/{name}") as info:
                flags = int(next(line for line in info if line.startswith("flags")).split()[1], 8)
        except (OSError, StopIteration):
            continue  # the folder's own descriptor
        if name in own:
            continue
        if target.startswith("socket:"):
            found = objects.get(int(name))
            sockets.append(f"{_owner(found) if found is not None else 'a socket'}{_peer(int(name))}")
        elif target.startswith("anon_inode:[eventpoll]"):
            sockets.append("an event loop's epoll")
        elif target[0] == "/" and target[:5] != "/dev/" and flags & (os.O_WRONLY | os.O_RDWR):
            files.append(target)
    return {"sockets": sorted(sockets), "files": sorted(files)}


def _peer(descriptor: int) -> str:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return f" (to {copy.getpeername() or 'its pair'})"
    except OSError:
        return ""


def _clients() -> list[str]:
    """Clients of what is outside, that hold a connection or a file."""
    found = []
    for thing in gc.get_objects():
        kind = type(thing)
        if kind.__name__ == "Connection" and kind.__module__.partition(".")[0] in ("sqlite3", "psycopg"):
            found.append(f"{_owner(thing)} ({kind.__module__}.{kind.__qualname__})")
        elif kind.__module__ == "http.client" and getattr(thing, "sock", None) is not None:
            if isinstance(thing, sys.modules["http.client"].HTTPConnection):
                found.append(f"{_owner(thing)} (to {thing.host})")
        elif kind.__module__ == "redis.connection" and getattr(thing, "_sock", None) is not None:
            found.append(f"{_owner(thing)} (redis)")
    return sorted(found)


# Threads and leases


def _threads() -> list[str]:
    python = {t.native_id: t.name for t in threading.enumerate()}
    main = threading.main_thread().native_id
    names = []
    for task in os.listdir("/proc/self/task"):
        if int(task) != main and int(task) != os.getpid():
            with open(f"/proc/self/task/{task}/comm") as comm:
                names.append(python.get(int(task)) or f"{comm.read().strip()} (not Python's)")
    return sorted(names)


def _locks() -> list[str]:
    """Files that this process has locked (proc(5), /proc/locks)."""
    inodes = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            stat = os.stat(f"/proc/self/fd/{name}")
            inodes[stat.st_ino] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    found = []
    try:
        with open("/proc/locks") as locks:
            for line in locks:
                fields = line.split()
                inode = int(fields[5].rpartition(":")[2])
                if fields[1] != "->" and inode in inodes and int(fields[4]) in (os.getpid(), -1):
                    found.append(f"the lock of {inodes[inode]}")
    except (OSError, ValueError, IndexError):
        pass
    return found


def _claims() -> list[str]:
    """Keys of the ledger that this process has claimed."""
    module = sys.modules.get("preheat.idempotency")
    if module is None:
        return []
    return [f"the ledger's key {key}" for heart in _instances(module.Heart) for key, _ in list(heart._due)]


# Seeds and ids


def _seeds() -> dict[str, str]:
    """A digest of the state of each generator, by name."""
    found: dict[str, str] = {}
    if "random" in sys.modules:
        kind = sys.modules["random"].Random
        for generator in _instances(kind):
            if type(generator).getrandbits is kind.getrandbits:  # SystemRandom has no state
                found[_owner(generator)] = _digest(generator.getstate())
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        for generator in _instances((numpy.RandomState, numpy.Generator)):
            bits = getattr(generator, "bit_generator", None) or generator._bit_generator
            found[_owner(generator)] = _digest(bits.state)
    return found


def _uuid1() -> dict[str, str]:
    """What tells uuid1's ids apart beside the time. Only ever asked in a clone: the first call chooses it."""
    if "uuid" not in sys.modules:
        return {}
    made = sys.modules["uuid"].uuid1()
    return {"uuid.uuid1": _digest((made.node, made.clock_seq))}


def _digest(state: Any) -> str:
    return hashlib.sha256(repr(_plain(state)).encode()).hexdigest()[:16]


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if hasattr(state, "tolist") else state


def _ids(folder: str) -> dict[str, str]:
    """What looks like a random id in the function's own modules, by name; and the instance's own."""
    found = {}
    for name, value in _values(folder):
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        if type(value).__name__ == "UUID" or (isinstance(value, str) and _ID.fullmatch(text)):
            found[name] = text
        elif isinstance(value, bytes) and 8 <= len(value) <= 64:
            found[name] = value.hex()
    service = sys.modules.get("preheat.service")
    for own in _instances(service.Service) if service else ():
        found["the instance's id"] = own.instance
    return found


# Credentials and clocks


def _holders(secrets: set[str]) -> list[str]:
    """Where these texts are still held."""
    found = set()
    skipped = (ModuleType, type)
    for thing in gc.get_objects():
        if isinstance(thing, skipped) or thing is secrets:
            continue
        for held in gc.get_referents(thing):
            if type(held) is str and held in secrets:
                found.add(_owner(thing))
                continue
            untracked = type(held) is dict and not gc.is_tracked(
                held
            )  # of plain values: in none of the lists
            if untracked and any(type(value) is str and value in secrets for value in held.values()):
                found.add(_owner(held))
    return sorted(name for name in found if not name.startswith("preheat.rehearse"))


def _clocks(baseline: Baseline, folder: str) -> list[str]:
    """Times of before the snapshot in the function's own modules."""
    shift = time.perf_counter() - time.monotonic()
    spans = [
        (baseline.started_at, baseline.taken_at),
        (baseline.started_ns / 1e9, baseline.taken_ns / 1e9),
        (baseline.started_ns / 1e9 - shift, baseline.taken_ns / 1e9 - shift),
    ]
    found = []
    for name, value in _values(folder):
        if type(value).__name__ == "datetime":
            value = value.timestamp()
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if any(
            low <= seconds <= high for low, high in spans for seconds in (value, value / 1e9, value / 1e3)
        ):
            found.append(name)
    return sorted(found)


# Names


def _modules(folder: str) -> Iterator[ModuleType]:
    """The modules of the function's own folder."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and os.path.abspath(path).startswith(folder + os.sep):
            yield module


def _values(folder: str) -> Iterator[tuple[str, Any]]:
    """Attributes of the function's own modules, of its own objects in them, and items of its mappings."""
    for module in _modules(folder):
        for name, value in list(vars(module).items()):
            if name.startswith("__"):
                continue
            full = f"{module.__name__}.{name}"
            yield full, value
            inner: dict[Any, Any] = value if isinstance(value, dict) else {}
            if type(value).__module__ == module.__name__:
                inner = getattr(value, "__dict__", {})
            elif isinstance(value, list | tuple):
                inner = dict(enumerate(value))
            for key, item in list(inner.items()):
                yield f"{full}[{key!r}]" if not isinstance(key, str) else f"{full}.{key}", item


def _instances(kind: Any) -> list[Any]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


_names: dict[int, str] = {}
"""Owners found before: looking one up walks all objects, and a clone has them where the snapshot has."""


def _owner(thing: Any) -> str:
    """The attribute of a module that leads to an object, and the object's type."""
    if id(thing) not in _names:
        _names[id(thing)] = _found_owner(thing)
    return _names[id(thing)]


def _found_owner(thing: Any) -> str:
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    seen, layer = {id(thing)}, [thing]
    spaces = {id(vars(module)): module for module in list(sys.modules.values()) if module is not None}
    for _ in range(_DEPTH):
        above: list[Any] = []
        for low in layer:
            for high in gc.get_referrers(low):
                if id(high) in seen or high is layer or high is above or type(high).__name__ == "frame":
                    continue
                if id(high) in spaces:
                    attribute = next((n for n, v in list(high.items()) if v is low), "?")
                    return f"{spaces[id(high)].__name__}.{attribute} ({kind})"
                seen.add(id(high))
                above.append(high)
        layer = above[:200]
    return f"an object of {kind}"
