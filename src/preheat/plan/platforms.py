"""What is known of the platforms beside their prices on Lambda, read from ``platforms.toml`` or a file of
one's own."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, get_type_hints

from ..deploy import aws_tables
from ..errors import UsageError

AUTOSCALED = ("knative", "cloudrun", "up")


class Lambda(NamedTuple):
    source: str
    cold_s: Sequence[float]
    """Least and most, beside the function's own start."""
    warm_s: Sequence[float]
    """Least and most, of every request."""
    concurrency: float
    """Instances of an account at once; one more request is throttled."""
    ping_s: float


class Price(NamedTuple):
    """US dollars."""

    source: str
    date: str
    checked: bool
    cpu_s: float
    """A CPU for a second, in an instance that is charged in full."""
    gib_s: float
    idle_cpu_s: float
    """The same in one that is kept and does nothing."""
    idle_gib_s: float
    request: float

    @property
    def free(self) -> bool:
        """Whether nothing is charged."""
        return not (self.cpu_s or self.gib_s or self.idle_cpu_s or self.idle_gib_s or self.request)


class Autoscaled(NamedTuple):
    """The names are those of ``local/scaling.py``'s Policy, where they are there."""

    source: str
    cold_s: Sequence[float]
    warm_s: Sequence[float]
    tick_s: float
    window_s: float
    panic_percentage: float
    panic_threshold: float
    utilization: float
    grace_s: float
    drain_s: float
    """Seconds that an instance is still there, and charged, after it was given up."""
    timeout_s: float
    """Seconds that a request may wait for an instance."""
    at_once: bool
    """Whether a request that waits brings a decision at once, whatever is up; else only where nothing is."""
    paid_step_s: float
    """To whole ones of what an instance's time at work is rounded up; 0: not at all."""
    idles_free: bool
    """Whether an idle instance beyond the minimum costs nothing."""
    price: Price


class Platforms(NamedTuple):
    aws: Lambda
    autoscaled: Mapping[str, Autoscaled]
    """By the names of AUTOSCALED."""


def load(path: str | None = None) -> Platforms:
    """The tables that come with the package, or those of a file. Raises UsageError that names the field."""
    if path is None:
        where = "platforms.toml"
        document = tomllib.loads((files(__package__) / where).read_text("utf-8"))
    else:
        where, document = path, aws_tables.read(path)
    found: dict[str, Autoscaled] = {}
    for name in AUTOSCALED:
        table = _table(document, name, where)
        price = Price(
            **_fields(Price, _table(table, "price", f"{where}: [{name}]"), f"{where}: [{name}.price]")
        )
        found[name] = Autoscaled(**_fields(Autoscaled, {**table, "price": price}, f"{where}: [{name}]"))
    aws = Lambda(**_fields(Lambda, _table(document, "lambda", where), f"{where}: [lambda]"))
    return Platforms(aws, found)


def _table(document: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    table = document.get(name)
    if not isinstance(table, dict):
        raise UsageError(f"{where} has no table {name!r}")
    return table


def _fields(kind: type, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise UsageError(f"{where} has an unknown field {unknown[0]!r}")
    for name, hint in hints.items():
        value: Any = table.get(name)
        if hint is float:
            right = _is_number(value)
        elif hint is bool or hint is str:
            right = isinstance(value, hint)
        elif hint is Price:
            right = isinstance(value, Price)
        else:
            right = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
            right = right and value[0] <= value[1]
        if not right:
            raise UsageError(f"{where}: {name!r} is missing or cannot be {value!r}")
    positive = [name for name in ("tick_s", "window_s", "utilization", "timeout_s") if name in hints]
    for name in positive:
        if not table[name] > 0:
            raise UsageError(f"{where}: {name!r} must be above 0")
    return dict(table)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
