"""A TOML table read strictly: what is missing, of another kind or unknown is said with its place."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import UsageError

_NOTHING: Any = object()


class Fields:
    """One table. ``done`` names what nobody asked for."""

    def __init__(self, table: object, where: str) -> None:
        if not isinstance(table, Mapping):
            raise UsageError(f"{where} must be a table")
        self._table, self.where = table, where
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        self._asked.add(name)
        return name in self._table

    def raw(self, name: str, default: Any = _NOTHING) -> Any:
        self._asked.add(name)
        if name in self._table:
            return self._table[name]
        if default is _NOTHING:
            raise UsageError(f"{self.where}: {name} is missing")
        return default

    def text(self, name: str, default: Any = _NOTHING) -> str:
        value = self.raw(name, default)
        if not isinstance(value, str):
            raise UsageError(f"{self.where}: {name} must be a text, not {value!r}")
        return value

    def one_of(self, name: str, known: Iterable[str], default: Any = _NOTHING) -> str:
        value, names = self.text(name, default), list(known)
        if value not in names:
            raise UsageError(f"{self.where}: {name} must be one of {', '.join(names)}, not {value!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw(name, default)
        if not isinstance(value, bool):
            raise UsageError(f"{self.where}: {name} must be true or false, not {value!r}")
        return value

    def number(
        self,
        name: str,
        default: Any = _NOTHING,
        *,
        least: float = 0.0,
        most: float = math.inf,
        zero: bool = False,
    ) -> float:
        """A finite number of at least ``least``; 0 is no rate and no duration, so above 0 where least is 0,
        unless ``zero``."""
        return checked(self.raw(name, default), f"{self.where}: {name}", least, most, zero=zero)

    def whole(self, name: str, default: Any = _NOTHING, *, least: int = 0, most: int = 10**9) -> int:
        value = self.raw(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UsageError(
                f"{self.where}: {name} must be a whole number from {least} to {most:,}, not {value!r}"
            )
        return value

    def numbers(self, name: str) -> list[float]:
        """One number, or a list of them."""
        value = self.raw(name)
        values = value if isinstance(value, list) else [value]
        if not values:
            raise UsageError(f"{self.where}: {name} is an empty list")
        return [checked(one, f"{self.where}: {name}", 0.0, math.inf) for one in values]

    def texts(self, name: str) -> dict[str, str]:
        """A table of texts, empty where there is none."""
        value = self.raw(name, {})
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise UsageError(f"{self.where}: {name} must be a table of texts")
        return dict(value)

    def done(self) -> None:
        unknown = [name for name in self._table if name not in self._asked]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._asked, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(sorted(self._asked))}"
            raise UsageError(f"{self.where}: {unknown[0]} is not known here{hint}")


def checked(value: object, what: str, least: float, most: float, *, zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{what} must be a number, not {value!r}")
    above = least == 0 and not zero
    if value < least or value > most or (value == 0 and above):
        bound = "above 0" if above else f"at least {least:g}"
        raise UsageError(
            f"{what} must be {bound}{f' and at most {most:g}' if most < math.inf else ''}, not {value:g}"
        )
    return float(value)
