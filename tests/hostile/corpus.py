"""Requests made by hand, one a file: ``requests/CLASS/CASE.http``.

The first line says what is wrong, ``# text`` or ``# 413 text`` with the status that it gets. What follows is
sent: lines end in CRLF up to the first empty one, behind it comes the body as it stands, without the file's
last line break. ``\\xNN``, ``\\r`` and such are Python's; ``{{a*70000}}`` repeats; ``{{length}}`` is the
body's. A body of ``gzip:`` or ``deflate:`` is compressed, one of ``base64:`` decoded.
"""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import httptools

FOLDER = Path(__file__).with_name("requests")
_REPEAT = re.compile(rb"\{\{(.+?)\*(\d+)\}\}", re.DOTALL)
_PACKED = {b"gzip:": gzip.compress, b"deflate:": zlib.compress, b"base64:": base64.b64decode}


class Case(NamedTuple):
    kind: str
    """Its class: the folder's name."""
    name: str
    why: str
    status: int | None
    """What it gets over HTTP; None where that is not said."""
    raw: bytes


class Parsed(NamedTuple):
    """A request that is HTTP, for doors that are given no bytes."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


@cache
def cases() -> tuple[Case, ...]:
    return tuple(_read(path) for path in sorted(FOLDER.glob("*/*.http")))


def _read(path: Path) -> Case:
    first, _, rest = path.read_text().partition("\n")
    found = re.fullmatch(r"# (?:(\d{3}) )?(.+)", first)
    assert found, f"{path}: the first line must be a comment"
    data = rest.removesuffix("\n").encode().decode("unicode_escape").encode("latin-1")
    head, blank, body = data.partition(b"\n\n")
    body = _REPEAT.sub(_repeated, body)
    for mark, pack in _PACKED.items():
        if body.startswith(mark):
            body = pack(body.removeprefix(mark))
            break
    head = _REPEAT.sub(_repeated, head).replace(b"{{length}}", b"%d" % len(body))
    raw = head.replace(b"\n", b"\r\n") + (b"\r\n\r\n" + body if blank else b"")
    return Case(path.parent.name, path.stem, found[2], int(found[1]) if found[1] else None, raw)


def _repeated(found: re.Match[bytes]) -> bytes:
    return found[1] * int(found[2])


class _Reader:
    def __init__(self) -> None:
        self.target, self.headers, self.body = b"", [], b""  # type: tuple[bytes, list[tuple[bytes, bytes]], bytes]
        self.whole = 0

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.whole += 1


def parsed(raw: bytes) -> Parsed | None:
    """The request as a front end would pass it on; None where it is not one whole request."""
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(raw)
        target = reader.target.decode("ascii")
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
        return None
    if reader.whole != 1:
        return None
    return Parsed(parser.get_method().decode(), target, reader.headers, reader.body)
