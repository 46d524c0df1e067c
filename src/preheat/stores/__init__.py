"""Where artifacts lie: a folder of this host, or a reference into an object store.

A folder is a Store, three methods; the download phase does the rest. What a reference names is fetched into
the cache first (preheat.remote), where it is a folder too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """A file as the store lists it."""

    path: str
    """Relative, with forward slashes."""
    size: int
    regular: bool
    """False for a link, device, socket or anything else that is not a plain file."""
    links: int = 1
    """Names that the file has; with more than one, whoever holds another can change it from there."""


class Store(Protocol):
    """One artifact's place. Every method raises ArtifactError that names the place and the cause."""

    def read(self, path: str, limit: int) -> bytes:
        """A small document, whole; refused where it is larger than ``limit`` bytes."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Every file that lies there."""
        ...

    def local(self, path: str) -> str:
        """A path on this host that holds the file's bytes and can be mapped."""
        ...


class Reference(NamedTuple):
    """An artifact in an object store: ``root/name@selector``."""

    root: str
    """The store's URL, which several artifacts share: ``s3://bucket/prefix``."""
    name: str
    selector: str
    """An alias, the first digits of a version, ``sha256:`` and all of them; empty for none."""

    def __str__(self) -> str:
        return f"{self.root}/{self.name}" + (f"@{self.selector}" if self.selector else "")


def open_store(location: str) -> Store | Reference:
    """What a location names: a folder, ``file://`` and a folder, or a reference into an object store.

    Raises ArtifactError for a folder that is not there, UsageError for a reference that is malformed.
    """
    scheme, separator, rest = location.partition("://")
    if separator and not (scheme == "file" and ("@" not in rest.rpartition("/")[2] or os.path.isdir(rest))):
        from .reference import parse

        return parse(location)
    return open_folder(rest if separator else location)


def open_folder(path: str) -> Store:
    """The store that a folder is. Raises ArtifactError where there is none."""
    from .local import LocalStore

    return LocalStore(path)
