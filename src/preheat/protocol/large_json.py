"""JSON of many megabytes, decoded a piece at a time.

The standard library's decoder keeps the interpreter to itself from the first byte to the last: half a second
for 16 MiB of numbers, in which nobody else is answered. Here it is given pieces; what comes of them is the
same, and so is what it refuses. A text that does not come apart well, deeply nested or of nothing but tiny
members, it is given whole: no text takes several times as long as without all this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from json import JSONDecodeError, JSONDecoder
from typing import Any

from ..pauses import joined, pause, room, width

PIECE = 16 * 1024
"""Characters that are decoded at once, or as many as a number has."""
TRIES = 2
"""Characters that may be looked at in vain, for each of the text; then it is decoded whole."""
MEMBER = 128
"""Characters in whose time one member is taken singly."""
ESCAPE = 12
"""Characters of the longest escape: the two halves of a surrogate pair."""
_SECOND_HALF = re.compile(r"\\u[dD][c-fC-F]")
_ENDS = {"[": "]", "{": "}"}
_NESTED = re.compile(r'[\[{"]')
_SPACE = re.compile(r"[ \t\n\r]*")


def loads(text: str, parse_constant: Callable[[str], object]) -> Any:
    """What ``json.loads`` gives. Raises ValueError, and RecursionError for nesting that is too deep."""
    try:
        return _Text(text, parse_constant).decode()
    except (_Whole, RecursionError):
        return json.loads(text, parse_constant=parse_constant)


class _Whole(Exception):
    """It does not come apart well."""


class _Text:
    """``at`` is a place in the text; beside a value the methods return where it ended."""

    def __init__(self, text: str, parse_constant: Callable[[str], object]) -> None:
        self._text = text
        self._left = TRIES * len(text)
        decoder: Any = JSONDecoder(
            parse_constant=parse_constant
        )  # what its `raw_decode` calls, errors aside:
        self._scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once

    def decode(self) -> Any:
        value, at = self._value(self._space(0))
        at = self._space(at)
        if at != len(self._text):
            raise JSONDecodeError("Extra data", self._text, at)
        return value

    def _space(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        assert found is not None  # noqa: S101 - it matches nothing, too
        return found.end()

    def _value(self, at: int) -> tuple[Any, int]:
        first = self._text[at : at + 1]
        if first == '"':
            return self._string(at)
        if first not in _ENDS:
            return self._scanned(at)
        piece = self._text[at : at + PIECE // 16]
        try:
            value, size = self._scan(piece, 0)
        except (StopIteration, ValueError):  # it is larger, or wrong
            self._vain(len(piece))
            return self._members(at)
        return value, at + size

    def _vain(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise _Whole

    def _scanned(self, at: int) -> tuple[Any, int]:
        try:
            return self._scan(self._text, at)
        except StopIteration as error:
            raise JSONDecodeError("Expecting value", self._text, error.value) from None

    def _string(self, at: int) -> tuple[str, int]:
        end = self._text.find('"', at + 1, at + PIECE)
        if end >= 0 and self._text.find("\\", at + 1, end) < 0:
            return self._scanned(at)
        parts: list[str] | None = None  # until there is an escape: plain text is taken out in one copy
        start, wide = at + 1, 1
        while True:
            if start > at + 1:
                pause()
            piece = self._text[start : start + PIECE]
            cut = len(piece)
            if start + cut < len(self._text):
                cut = _cut(self._text, start, start + cut) - start
            try:
                part, size = self._scan(f'"{piece[:cut]}"', 0)
            except ValueError:
                return self._scanned(at)
            if not cut:  # nothing is left, or nothing but escapes
                return self._scanned(at)
            end = start + size - 2
            wide = max(wide, width(part))
            if parts is None and len(part) < end - start:
                parts = [self._text[i : min(i + PIECE, start)] for i in range(at + 1, start, PIECE)]
            if parts is not None:
                parts.append(part)
            if size < cut + 2:  # it ends here
                if parts is not None:
                    return joined(parts), end + 1
                room(wide * (end - at - 1))
                return self._text[at + 1 : end], end + 1
            start += cut

    def _members(self, at: int) -> tuple[Any, int]:
        """A list or an object, some members at a time where they are small, else one."""
        opening = self._text[at]
        found: Any = [] if opening == "[" else {}
        at = self._space(at + 1)
        if self._text[at : at + 1] == _ENDS[opening]:
            return found, at + 1
        singly = at  # up to here
        while True:
            if at >= singly:
                some, end = self._some(at, opening)
                if some:
                    found.extend(some) if opening == "[" else found.update(some)
                    at = self._space(end)
                    singly = at
                    continue
                singly = at + PIECE
            self._vain(MEMBER)
            if opening == "{":
                key, at = self._key(at)
                found[key], at = self._value(at)
            else:
                value, at = self._value(at)
                found.append(value)
            at = self._space(at)
            if self._text[at : at + 1] == _ENDS[opening]:
                return found, at + 1
            at = self._space(self._past(at, ","))

    def _some(self, at: int, opening: str) -> tuple[Any, int]:
        """Whole members, as one list or object, and where the next one begins; none if there is no telling
        where one ends. What is cut off before a comma and is valid by itself ends with a whole member."""
        pause()
        piece = self._text[at : at + PIECE]
        ends = max(piece.rfind("],"), piece.rfind("},"), piece.rfind('",')) + 1
        for cut in dict.fromkeys((ends, piece.rfind(","))) if _NESTED.search(piece) else (piece.rfind(","),):
            if cut <= 0:
                continue
            whole = f"{opening}{piece[:cut]}{_ENDS[opening]}"
            try:
                some, size = self._scan(whole, 0)
            except (StopIteration, ValueError):
                size = 0
            if size == len(whole) and some:
                return some, at + cut + 1
            self._vain(cut)
        return None, at

    def _key(self, at: int) -> tuple[str, int]:
        """And where its value begins."""
        if self._text[at : at + 1] != '"':
            raise JSONDecodeError("Expecting property name enclosed in double quotes", self._text, at)
        key, at = self._string(at)
        return key, self._space(self._past(self._space(at), ":"))

    def _past(self, at: int, delimiter: str) -> int:
        if self._text[at : at + 1] != delimiter:
            raise JSONDecodeError(f"Expecting {delimiter!r} delimiter", self._text, at)
        return at + 1


def _cut(text: str, start: int, end: int) -> int:
    """Where a piece of a string may end: not within an escape, nor between two that are one character."""
    at = text.rfind("\\", max(end - ESCAPE, start), end)
    if at < 0:
        return end
    while at >= 0:
        first = start + len(text[start:at].rstrip("\\"))
        if (at - first) % 2:  # each is escaped by the one before it
            return at + 1
        if not _SECOND_HALF.match(text, at):
            return at
        at = text.rfind("\\", start, first)
    return start
