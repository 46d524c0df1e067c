"""CRIU's images with the heap laid aside: every page is where it was, and what is not understood stays."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from preheat.snapshot.criu import HEAP, HEAP_NAME
from preheat.snapshot.images import lay_heap_aside

PAGE = 4096
MAGIC = b"magic no"
BEGIN, END = 0x55550000, 0x55550000 + 8 * PAGE
ANONYMOUS, HEAP_AREA, ANON_PRIVATE, FILE_PRIVATE = 0x20, 0x20, 0x200, 0x40
PRESENT = 4


def varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def message(*fields: tuple[int, int | bytes]) -> bytes:
    data = b""
    for number, value in fields:
        if isinstance(value, int):
            data += varint(number << 3) + varint(value)
        else:
            data += varint(number << 3 | 2) + varint(len(value)) + value
    return data


def image(*messages: bytes) -> bytes:
    return MAGIC + b"".join(struct.pack("<I", len(each)) + each for each in messages)


def vma(start: int, end: int, status: int, flags: int = 0x22) -> bytes:
    return message((1, start), (2, end), (3, 0), (4, 0), (5, 3), (6, flags), (7, status), (8, 1))


def neighbour(start: int) -> bytes:
    return vma(start, start + PAGE, ANON_PRIVATE | 1)


def pages(address: int, count: int, flags: int = PRESENT) -> bytes:
    return message((1, address), (2, 0), (4, flags), (5, count))


def filled(*numbers: int) -> bytes:
    return b"".join(bytes([number]) * PAGE for number in numbers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One process: a heap of eight pages, of which three have been written to; its neighbours' pages are in
    one run with the heap's first and last."""
    before, behind = neighbour(BEGIN - PAGE), neighbour(END)
    heap = vma(BEGIN, END, ANON_PRIVATE | HEAP_AREA | 1)
    files = {
        "mm-7.img": image(message((1, 5), (14, before), (14, heap), (14, behind), (15, 1))),
        "pagemap-7.img": image(
            message((1, 3)),
            pages(BEGIN - PAGE, 2),
            pages(BEGIN + 2 * PAGE, 1, flags=0),  # said to be there, and in no file
            pages(BEGIN + 4 * PAGE, 1),
            pages(END - PAGE, 2),
        ),
        "pages-3.img": filled(1, 2, 3, 4, 5),
        "files.img": image(message((1, 1), (2, 9), (3, message((1, 9), (6, b"/weights"))))),
        "core-7.img": image(message((1, 1))),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_heap_s_pages_lie_at_their_places_and_the_others_are_left(folder: Path) -> None:
    assert lay_heap_aside(str(folder)) == 8 * PAGE
    assert (folder / HEAP).read_bytes() == filled(2, 0, 0, 0, 3, 0, 0, 4)
    assert (folder / HEAP).stat().st_mode & 0o777 == 0o600
    assert (folder / "pages-3.img").read_bytes() == filled(1, 5)
    assert (folder / "pagemap-7.img").read_bytes() == image(
        message((1, 3)), pages(BEGIN - PAGE, 1), pages(END, 1)
    )


def test_the_heap_is_a_private_mapping_of_a_file_that_whoever_restores_it_names(folder: Path) -> None:
    before = contents(folder)
    lay_heap_aside(str(folder))
    mapped = message(
        *((1, BEGIN), (2, END), (3, 0), (4, 10), (5, 3), (6, 0x22 & ~ANONYMOUS)),
        *((7, FILE_PRIVATE | HEAP_AREA | 1), (8, 1), (10, 0)),
    )
    assert (folder / "mm-7.img").read_bytes() == image(
        message((1, 5), (14, neighbour(BEGIN - PAGE)), (14, mapped), (14, neighbour(END)), (15, 1))
    )
    told = (folder / "files.img").read_bytes()
    assert told.startswith(before["files.img"])
    assert f"/{HEAP_NAME}".encode() in told[len(before["files.img"]) :]
    assert (folder / "core-7.img").read_bytes() == before["core-7.img"]


def test_images_that_are_not_as_expected_stay_as_they_are(folder: Path) -> None:
    def changed(name: str, data: bytes) -> None:
        found = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(data)
        before = contents(folder)
        assert lay_heap_aside(str(folder)) == 0, name
        assert contents(folder) == before
        if found is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(found)

    changed("mm-8.img", image(message((1, 5))))  # a second process
    changed("mm-7.img", image(message((14, vma(BEGIN, END, ANON_PRIVATE)))))  # no heap
    changed("mm-7.img", image(b"\x09" + bytes(8)))  # a number of fixed width
    changed("mm-7.img", MAGIC + b"\xff\xff")
    changed("pages-3.img", filled(1, 2))
    changed("pagemap-7.img", image(message((1, 3)), message((1, BEGIN), (3, 1), (4, 4), (5, 1))))
    changed("files.img", image(message((1, 1))))
    assert lay_heap_aside(str(folder)) == 8 * PAGE
