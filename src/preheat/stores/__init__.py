"""Where artifacts lie. A store is three methods; the download phase does the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from ..errors import ArtifactError


class Entry(NamedTuple):
    """A file as the store lists it."""

    path: str
    """Relative, with forward slashes."""
    size: int
    regular: bool
    """False for a link, device, socket or anything else that is not a plain file."""


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


def open_store(location: str) -> Store:
    """The store that a location names: a folder, or ``file://`` and a folder."""
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "file":
        raise ArtifactError(f"{location}: {scheme}:// is not a store that this version reads; give a folder")
    from .local import LocalStore

    return LocalStore(rest if separator else location)
