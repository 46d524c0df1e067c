"""References into an object store, as they are written: ``s3://bucket/prefix/name@alias``."""

from __future__ import annotations

from ..errors import UsageError
from ..manifest import is_name
from . import Reference

SCHEMES = ("s3", "gs", "az", "file")
SHORTEST = 8
"""Digits of a version that a selector must give at least; an alias may not look like that."""
_HEX = frozenset("0123456789abcdef")


def parse(location: str, *, selected: bool = True) -> Reference:
    """Read a reference. ``selected``: it must say which version. Raises UsageError."""
    path, at, selector = (
        location.rpartition("@") if "@" in location.rpartition("/")[2] else (location, "", "")
    )
    root, _, name = path.rstrip("/").rpartition("/")
    root = check_root(root if not root.endswith(":/") else f"{root}/", location)
    if not is_name(name):
        raise UsageError(
            f"{location}: {name!r} is not an artifact's name: letters, digits, '.', '_' or '-', as in "
            "s3://bucket/prefix/name@prod"
        )
    if at or selected:
        _check_selector(selector, location)
    return Reference(root, name, selector)


def check_root(root: str, location: str) -> str:
    """A store's URL, without a slash at its end. Raises UsageError."""
    scheme, separator, rest = root.partition("://")
    rest = rest.rstrip("/")
    if not separator or scheme not in SCHEMES:
        raise UsageError(f"{location}: a store is one of {', '.join(s + '://' for s in SCHEMES)}")
    parts = rest.split("/")[1:] if scheme == "file" else rest.split("/")
    if not parts or (scheme == "file" and not rest.startswith("/")) or not parts[0]:
        what = "an absolute path" if scheme == "file" else "a bucket"
        raise UsageError(f"{location}: {what} must follow {scheme}://")
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts) or set(rest) & set("\\?#%"):
        raise UsageError(
            f"{location}: a store's path may not hold '..', '.', empty parts, '\\', '?', '#' or '%'"
        )
    return f"{scheme}://{rest}"


def is_alias(text: str) -> bool:
    """Whether a text can be an alias: a name that cannot be taken for a version."""
    return is_name(text) and not _is_version(text)


def _is_version(text: str) -> bool:
    return SHORTEST <= len(text) <= 64 and not set(text) - _HEX


def _check_selector(selector: str, location: str) -> None:
    digest = selector.removeprefix("sha256:")
    if digest != selector:
        if len(digest) != 64 or not _is_version(digest):
            raise UsageError(f"{location}: sha256: must be followed by 64 hexadecimal digits")
    elif not is_name(selector):
        raise UsageError(
            f"{location}: say which version after '@': an alias, the first {SHORTEST} or more digits of a "
            "version, or sha256: and all 64"
        )


def version_prefix(selector: str) -> str | None:
    """The digits of a version that a selector gives; None for an alias."""
    digits = selector.removeprefix("sha256:")
    return digits if _is_version(digits) else None
