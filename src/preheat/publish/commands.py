"""`preheat publish`, `pull`, `ls`, `promote`, `rollback` and `gc`, as the command line calls them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..settings import Settings
from .progress import shown

if TYPE_CHECKING:
    from .aliases import Change
    from .signing import Signer


def publish(
    folder: str, location: str, *, alias: str | None, sign: str | None, verify: bool, as_json: bool
) -> None:
    from .upload import publish as upload

    signer = _signer(sign)
    with shown() as progress:
        done = upload(
            folder,
            location,
            alias=alias,
            timeout_s=_settings().fetch_timeout,
            sign=signer,
            verify=verify,
            progress=progress,
        )
    lines = [
        f"{'published' if done.new else 'already published'} {done.reference}",
        f"version   {done.version}",
        f"sent      {done.uploaded} files, {done.uploaded_bytes / 1e6:.1f} MB; the store had {done.shared} "
        f"({done.shared_bytes / 1e6:.1f} MB)",
    ]
    if done.alias is not None:
        lines.append(_change(done.alias))
        _warn(done.alias)
    _print(as_json, done.to_dict, lines)


def pull(location: str, out: str, *, as_json: bool) -> None:
    from .pull import pull as fetch

    with shown() as progress:
        done = fetch(location, out, _marked(), progress=progress)
    _print(
        as_json,
        done.to_dict,
        [f"pulled {done.reference}: {done.files} files, {done.bytes / 1e6:.1f} MB, in {done.folder}"],
    )


def ls(location: str, *, as_json: bool) -> None:
    from .listing import listing, print_listing

    found = listing(location, timeout_s=_settings().fetch_timeout)
    if as_json:
        _print(True, lambda: found, [])
        return
    from rich.console import Console

    print_listing(Console(), found)


def promote(location: str, alias: str, *, sign: str | None, as_json: bool) -> None:
    from .aliases import promote as change_alias

    done = change_alias(location, alias, timeout_s=_settings().fetch_timeout, sign=_signer(sign))
    _warn(done)
    _print(as_json, done.to_dict, [_change(done)])


def rollback(location: str, alias: str, *, sign: str | None, as_json: bool) -> None:
    from .aliases import rollback as change_alias

    done = change_alias(location, alias, timeout_s=_settings().fetch_timeout, sign=_signer(sign))
    _warn(done)
    _print(as_json, done.to_dict, [_change(done)])


def gc(location: str, *, keep: int | None, grace_hours: float, dry_run: bool, as_json: bool) -> None:
    from .collect import collect

    done = collect(
        location,
        keep=keep,
        grace_s=grace_hours * 3600,
        dry_run=dry_run,
        timeout_s=_settings().fetch_timeout,
    )
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb} {name}" for name in done.versions]
    lines.append(
        f"{verb} {len(done.blobs)} files, {done.bytes / 1e6:.1f} MB; {done.kept_blobs} are in use"
        + (f", {done.young} are too young to go" if done.young else "")
    )
    _print(as_json, done.to_dict, lines)


def export(location: str, out: str, *, sign: str | None, as_json: bool) -> None:
    from .bundle import export as write

    signer = _signer(sign)
    with shown() as progress:
        done = write(location, out, _marked(), sign=signer, progress=progress)
    kind, size = "signed" if done.signed else "unsigned", f"{done.bytes / 1e6:.1f} MB"
    _print(
        as_json,
        done.to_dict,
        [f"exported {done.reference} ({done.version[:12]}, {kind}): {size} in {done.file}"],
    )


def import_(path: str, location: str, *, alias: str | None, sign: str | None, as_json: bool) -> None:
    from .unbundle import import_bundle

    signer = _signer(sign)
    with shown() as progress:
        done = import_bundle(path, location, _marked(), alias=alias, sign=signer, progress=progress)
    lines = [f"imported {done.reference} ({'signed' if done.signed else 'unsigned'})"]
    if done.alias is not None:
        lines.append(_change(done.alias))
        _warn(done.alias)
    _print(as_json, done.to_dict, lines)


def _marked() -> Settings:
    """The settings, with a place for high-water marks that outlives the command."""
    settings = _settings()
    if settings.high_water:
        return settings
    return settings._replace(high_water=f"{settings.cache_dir(os.environ)}/store/high-water")


def _settings() -> Settings:
    return Settings.from_environ(os.environ)


def _signer(path: str | None) -> Signer | None:
    if path is None:
        return None
    from .signing import Signer

    signer = Signer(path)
    sys.stderr.write(f"signing; deployments that trust this key set PREHEAT_TRUST={signer.public}\n")
    return signer


def _change(change: Change) -> str:
    was = f", was {change.before[:12]}" if change.before and change.changed else ""
    verb = "names" if change.changed else "already names"
    return f"{change.alias} {verb} {change.version[:12]} (epoch {change.epoch}{was})"


def _warn(change: Change) -> None:
    if not change.safe:
        sys.stderr.write(
            "warning: this store ignores conditions on writes; another publisher's change of the alias at "
            "the same moment could be lost\n"
        )
    if change.unsigned:
        sys.stderr.write(
            f"warning: {change.alias} was signed and no longer is; deployments with PREHEAT_TRUST refuse it\n"
        )


def _print(as_json: bool, document: Callable[[], dict[str, Any]], lines: list[str]) -> None:
    if as_json:
        sys.stdout.write(json.dumps(document(), indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
