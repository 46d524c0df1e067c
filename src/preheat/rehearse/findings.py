"""What a rehearsal found, in words: what it is, what it is called, what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_OPEN: dict[str, str] = {
    "sockets": "is open across the snapshot: close it in a before-hook, open it in an after-hook",
    "clients": "is connected across the snapshot: close it in a before-hook, open it in an after-hook",
    "files": "is open for writing across the snapshot, and every clone would write to it",
    "threads": "did not survive the snapshot: stop it in a before-hook, start it in an after-hook",
    "leases": "is held at the snapshot, and would be held by every clone: release it in a before-hook",
}
_KIND = {
    "sockets": "socket",
    "clients": "client",
    "files": "temp file",
    "threads": "thread",
    "leases": "lease",
}

UUID1 = "uuid.uuid1"
_UUID1_SAID = "was used before the snapshot, so that ids of two clones differ by the time alone: use uuid4"


class Finding(NamedTuple):
    kind: str
    """``socket``, ``client``, ``temp file``, ``thread``, ``lease``, ``seed``, ``id``, ``credentials``,
    ``clock``, ``answer``, ``hook``."""
    name: str
    said: str


def at_snapshot(found: Mapping[str, Any]) -> list[Finding]:
    """What the process had when the snapshot was taken."""
    return [Finding(_KIND[key], name, said) for key, said in _OPEN.items() for name in found[key]]


def repeated(
    clones: Sequence[Mapping[str, Any]], first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[Finding]:
    """Seeds and ids that two clones share. ``first``, ``second``: two snapshots of separate starts: what is
    the same in both is no chance, but wanted so. The generators that all modules share are told anyway."""
    found = []
    for key, kind, said in (
        ("seeds", "seed", "gives every clone the same numbers: seed it from os.urandom in an after-hook"),
        ("ids", "id", "is the same in every clone: make it in an after-hook"),
    ):
        for name in sorted({name for clone in clones for name in clone[key]}):
            values = [clone[key][name] for clone in clones if name in clone[key]]
            constant = name in first[key] and first[key][name] == second[key].get(name)
            shared = name.startswith(("random._inst", "numpy.random.mtrand._rand"))
            if name == UUID1:  # 14 random bits: some of many clones share them by chance, all of them never
                if len(values) > 1 and len(set(values)) == 1:
                    found.append(Finding(kind, name, _UUID1_SAID))
            elif len(set(values)) < len(values) and (shared or not constant):
                found.append(Finding(kind, name, said))
    return found


def kept(clones: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Credentials and clocks of before the snapshot."""
    told = {
        Finding(kind, name, said)
        for clone in clones
        for key, kind, said in (
            (
                "credentials",
                "credentials",
                "still holds the credentials of before the snapshot: fetch them in an after-hook",
            ),
            ("clocks", "clock", "still has a time of before the snapshot: read the clock in an after-hook"),
        )
        for name in clone.get(key, ())
    }
    return sorted(told)
