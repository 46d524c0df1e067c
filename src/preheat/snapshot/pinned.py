"""An artifact in a store: brought into the cache by another process, and named by its version.

What fetches has threads of its own, and keeps them: a process that has fetched can no longer be forked. What
lies in the cache is opened without any of that.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

from .. import fingerprint
from ..bootstrap import likely_files
from ..errors import PreheatError, StoreError
from ..phases import Phase, PhaseClock
from ..settings import Settings
from ..stores import Reference, open_store


@contextlib.contextmanager
def pinned(settings: Settings, cache_dir: str, clock: PhaseClock) -> Iterator[str]:
    """Where the artifact lies: as the settings say, or with all digits of its version where they name one in
    a store. Until the block ends, what was fetched is held against eviction.

    Raises what ``open_remote`` raises.
    """
    location = settings.artifact
    place = location if location.endswith(".py") else open_store(location)
    if not isinstance(place, Reference):
        yield location
        return
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _fetch(place, settings, cache_dir, theirs)
    theirs.close()
    try:
        with clock.phase(Phase.DOWNLOAD) as attributes, ours.makefile("rb") as lines:
            line = lines.readline()
            if not line:
                raise StoreError(f"{location} was not fetched: the process that does it was ended")
            told: dict[str, Any] = json.loads(line)
            if "error" in told:
                raise StoreError(told["error"], code=told.get("code"))
            attributes.update(told["attributes"])
        yield str(place._replace(selector=f"sha256:{told['version']}"))
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _fetch(place: Reference, settings: Settings, cache_dir: str, told: socket.socket) -> NoReturn:
    """In the other process: fetch, say what was fetched, hold it until nobody listens any more."""
    status = 1
    try:
        from ..remote import open_remote

        clock = PhaseClock()
        artifact = open_remote(place, settings, cache_dir=cache_dir, clock=clock)
        artifact.require(likely_files(artifact, fingerprint.machine(), settings))
        exact = place._replace(selector=f"sha256:{artifact.version}")
        if settings.trust and exact != place:  # the version's own signature, which opens it from the cache
            open_remote(exact, settings, cache_dir=cache_dir, clock=clock)
        attributes: dict[str, Any] = {}
        for span in clock.spans:
            attributes.update(span.attributes)
        _tell(told, {"version": artifact.version, "attributes": {**attributes, "by": "another process"}})
        told.recv(1)
        status = 0
    except PreheatError as error:
        _tell(told, {"error": str(error), "code": error.code})
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _tell(told: socket.socket, document: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        told.sendall(json.dumps(document).encode() + b"\n")
