"""What a store holds: artifacts, their versions, the aliases that name them."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from ..stores.layout import aliases, read_alias, read_version, versions
from ..stores.object import Bucket, Deadline
from ..stores.reference import check_root
from ..stores.wording import MissingError

if TYPE_CHECKING:
    from rich.console import Console


def listing(location: str, *, timeout_s: float) -> dict[str, Any]:
    """Every artifact under a store's root; or the one that is named, where ``location`` ends in its name.

    Raises StoreError where there is neither.
    """
    root, only = check_root(location, location), ""
    bucket = Bucket(root, Deadline(timeout_s))
    names: list[str] = []
    with contextlib.suppress(MissingError):  # a folder that is not there may be an artifact's name
        names = bucket.folders("artifacts")
    above, _, last = root.rpartition("/")
    if not names and not above.endswith("/"):
        bucket = Bucket(above, Deadline(timeout_s))
        if last in bucket.folders("artifacts"):
            root, only, names = above, last, [last]
    if not names:
        inside = Bucket(root, Deadline(timeout_s)).folders("")
        below = ", ".join(f"{root}/{name}" for name in inside[:5])
        raise MissingError(f"{location}: no artifact was published here{below and f'; look into {below}'}")
    return {
        "root": root,
        "artifacts": [_artifact(bucket, name) for name in names if not only or name == only],
    }


def _artifact(bucket: Bucket, name: str) -> dict[str, Any]:
    named: dict[str, list[str]] = {}
    found = []
    for alias in aliases(bucket, name):
        value, _ = read_alias(bucket, name, alias)
        named.setdefault(value.version, []).append(alias)
        found.append(
            {
                "alias": alias,
                "version": value.version,
                "epoch": value.epoch,
                "signed": value.envelope is not None,
                "history": list(value.history),
            }
        )
    published = versions(bucket, name)
    rows = []
    for version in sorted(published, key=lambda v: -published[v]):
        manifest, _ = read_version(bucket, name, version)
        rows.append(
            {
                "version": version,
                "published": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(published[version])),
                "bytes": sum({file.sha256: file.size for file in manifest.files}.values()),
                "variants": [variant.name for variant in manifest.variants],
                "aliases": named.get(version, []),
            }
        )
    return {"name": name, "versions": rows, "aliases": found}


def print_listing(console: Console, found: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    table = Table("artifact", "version", "aliases", "published, UTC", "MB", "variants", box=box.SIMPLE_HEAD)
    table.columns[1].no_wrap = table.columns[3].no_wrap = True
    for artifact in found["artifacts"]:
        epochs = {alias["alias"]: alias["epoch"] for alias in artifact["aliases"]}
        for row in artifact["versions"]:
            names = ", ".join(f"{alias} (epoch {epochs[alias]})" for alias in row["aliases"])
            table.add_row(
                artifact["name"],
                row["version"][:12],
                names,
                row["published"][:16].replace("T", " "),
                f"{row['bytes'] / 1e6:.1f}",
                ", ".join(row["variants"]),
            )
    console.print(found["root"], markup=False, highlight=False, soft_wrap=True)
    console.print(table)
