"""AWS Lambda's limits and prices, read from ``aws_lambda.toml`` or from a file of one's own."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from ..errors import UsageError

HOURS_A_MONTH = 730.0


class Limits(NamedTuple):
    unzipped_mb: int
    image_mb: int
    memory_mb: Sequence[int]
    """Least and most."""
    memory_per_cpu_mb: int
    ephemeral_mb: Sequence[int]
    timeout_s: Sequence[int]
    init_s: float
    snapstart_init_s: float
    restore_hooks_s: float


class SnapStart(NamedTuple):
    python: Sequence[str]
    ephemeral_mb: int
    restore_s: float


class Assumed(NamedTuple):
    """What the build cannot measure; every answer that uses one says so."""

    runtime_layer_mb: float
    preheat_layer_mb: float
    import_ms: float
    fetch_mb_per_s: float
    python_mib: float
    idle_s: float
    recycled_s: float


class Prices(NamedTuple):
    """US dollars; a GB-second unless it says otherwise."""

    region: str
    date: str
    source: str
    checked: bool
    request: float
    """A request."""
    duration: float
    provisioned: float
    provisioned_duration: float
    ephemeral: float
    snapshot_cache: float
    snapshot_restore: float
    """A GB restored."""


class Tables(NamedTuple):
    limits: Limits
    snapstart: SnapStart
    assumed: Assumed
    document: dict[str, Any]


def load() -> Tables:
    """The tables that come with the package."""
    text = (files(__package__) / "aws_lambda.toml").read_text(encoding="utf-8")
    document = tomllib.loads(text)
    return Tables(
        Limits(**document["limits"]),
        SnapStart(**document["snapstart"]),
        Assumed(**document["assumed"]),
        document,
    )


def prices(tables: Tables, region: str, architecture: str, path: str | None = None) -> Prices:
    """A region's prices; ``path``: a TOML file of one's own, with ``[source]`` and ``[regions.NAME]`` as in
    the package's. Raises UsageError that names the regions or the field."""
    document, where = (tables.document, "the price table") if path is None else (read(path), path)
    regions = document.get("regions")
    if not isinstance(regions, dict) or region not in regions:
        known = ", ".join(regions) if isinstance(regions, dict) and regions else "none"
        raise UsageError(
            f"{where} has no prices for the region {region!r}, only for: {known}; name a file with --prices"
        )
    row, source = regions[region], document.get("source", {})
    by_architecture = row.get(architecture) if isinstance(row, dict) else None
    if not isinstance(by_architecture, dict) or not isinstance(source, dict):
        raise UsageError(f"{where} has no table [regions.{region}.{architecture}]")
    found = {"request": row.get("request"), **by_architecture}
    figures: dict[str, float] = {}
    for field in Prices._fields[4:]:
        value = found.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UsageError(f"{where}: the price {field!r} of {region}, {architecture} must be a number")
        figures[field] = float(value)
    return Prices(
        region,
        str(source.get("date", "")),
        str(source.get("prices", "") or path or ""),
        bool(source.get("checked", path is not None)),
        *(figures[field] for field in Prices._fields[4:]),
    )


def read(path: str) -> dict[str, Any]:
    """A TOML file. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
