"""CRIU's images of one process, with its heap laid aside: a restore maps that file, privately, and copies
none of it.

What a process has imported and opened lies in its heap for the most part, and a first answer touches a
quarter of that. CRIU itself reads every page before the process goes on.

Only the heap that brk(2) makes is laid aside. Other memory may be grown by mremap(2), past the end of a file,
or emptied by MADV_DONTNEED and expected to be zero, where a mapped file comes back. The C library does
neither to this heap: it grows by memory of its own behind it.

The images' format: https://criu.org/Images, and ``images/*.proto`` of CRIU; fields that are not named here
stay as they are.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .criu import HEAP, HEAP_NAME

_MAGIC = 8
"""Bytes before the first message of an image; each message has its length before it, in four bytes."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CHUNK = 1 << 20
# mm_entry, vma_entry (mm.proto, vma.proto)
_VMAS = 14
_START, _END, _FILE_OFFSET, _FILE_ID, _FLAGS, _STATUS = 1, 2, 3, 4, 6, 7
_FDFLAGS = 10
_ANONYMOUS = 0x20
"""mmap's flag."""
_HEAP_AREA, _FILE_PRIVATE, _ANON_PRIVATE = 1 << 5, 1 << 6, 1 << 9
# pagemap_head, pagemap_entry (pagemap.proto); CRIU has had two fields for how many
_PAGES_ID = 1
_ADDRESS, _COUNT, _IN_PARENT, _PAGE_FLAGS, _LONG_COUNT = 1, 2, 3, 4, 5
_PRESENT = 1 << 2
# file_entry (fdinfo.proto), reg_file_entry (regfile.proto)
_TYPE, _ID, _REGULAR = 1, 2, 3
_REG_FILE = 1
_REG_ID, _REG_FLAGS, _REG_POSITION, _REG_OWNER, _REG_NAME = 1, 2, 3, 5, 6
_NO_OWNER = bytes.fromhex("08001000180020002800")
"""A fown_entry: nobody gets signals of it."""

Message = dict[int, list[int | bytes]]
"""A protobuf message: what each field holds, numbers and bytes, as often as it is there."""


class _Run(NamedTuple):
    """Pages that follow each other, in memory and in the pages' file."""

    entry: Message
    address: int
    pages: int
    present: bool
    """Whether the pages' file has them."""


def lay_heap_aside(folder: str) -> int:
    """Move the heap's pages to a file of their own; gives its bytes. 0 where there is more than one process,
    no such heap, or an image that is not as expected: the images then stay as they are."""
    try:
        (mm_path,) = _named(folder, "mm-")
        (pagemap_path,) = _named(folder, "pagemap-")
        mm_magic, (mm,) = _read(mm_path)
        at, heap = _heap(mm[_VMAS])
        pagemap_magic, (head, *entries) = _read(pagemap_path)
        pages_path = os.path.join(folder, f"pages-{_number(head, _PAGES_ID)}.img")
        files_path = os.path.join(folder, "files.img")
        files_magic, files = _read(files_path)
        begin, end = _number(heap, _START), _number(heap, _END)
        file_id = 1 + max(_number(file, _ID) for file in files)
        runs = list(_cut([_run(entry) for entry in entries], begin, end))
        if sum(run.pages for run in runs if run.present) * _PAGE != os.path.getsize(pages_path):
            return 0
    except (OSError, ValueError, KeyError, IndexError, struct.error):
        return 0
    kept = [run for run in runs if not begin <= run.address < end]
    _move_pages(runs, pages_path, os.path.join(folder, HEAP), begin, end)
    heap[_FLAGS] = [_number(heap, _FLAGS) & ~_ANONYMOUS]
    heap[_STATUS] = [_number(heap, _STATUS) & ~_ANON_PRIVATE | _FILE_PRIVATE]
    heap[_FILE_ID], heap[_FILE_OFFSET], heap[_FDFLAGS] = [file_id], [0], [os.O_RDONLY]
    named: Message = {_REG_ID: [file_id], _REG_FLAGS: [os.O_RDONLY], _REG_POSITION: [0]}
    named.update({_REG_OWNER: [_NO_OWNER], _REG_NAME: [f"/{HEAP_NAME}".encode()]})
    files.append({_TYPE: [_REG_FILE], _ID: [file_id], _REGULAR: [_packed(named)]})
    mm[_VMAS][at] = _packed(heap)
    _write(mm_path, mm_magic, [mm])
    _write(pagemap_path, pagemap_magic, [head, *(_entry(run) for run in kept)])
    _write(files_path, files_magic, files)
    return end - begin


def _heap(vmas: list[int | bytes]) -> tuple[int, Message]:
    """Where the heap is among the mappings, and it. Raises ValueError where there is not just one heap."""
    wanted = _HEAP_AREA | _ANON_PRIVATE
    each = enumerate(map(_message, vmas))
    (found,) = ((at, vma) for at, vma in each if _number(vma, _STATUS) & wanted == wanted)
    return found


def _run(entry: Message) -> _Run:
    pages = max(_number(entry, field, 0) for field in (_COUNT, _LONG_COUNT))
    if _number(entry, _IN_PARENT, 0):
        raise ValueError("pages of another dump")
    return _Run(entry, _number(entry, _ADDRESS), pages, bool(_number(entry, _PAGE_FLAGS) & _PRESENT))


def _cut(runs: Iterable[_Run], begin: int, end: int) -> Iterator[_Run]:
    """The same pages, no run partly between two addresses."""
    for run in runs:
        last = run.address + run.pages * _PAGE
        edges = [run.address, *(edge for edge in (begin, end) if run.address < edge < last), last]
        for start, stop in itertools.pairwise(edges):
            yield run._replace(address=start, pages=(stop - start) // _PAGE)


def _entry(run: _Run) -> Message:
    entry: Message = {**run.entry, _ADDRESS: [run.address]}
    for field in (_COUNT, _LONG_COUNT):
        if _number(entry, field, 0):  # CRIU of 4.2 writes a zero into the older one
            entry[field] = [run.pages]
    return entry


def _move_pages(runs: list[_Run], pages_path: str, heap_path: str, begin: int, end: int) -> None:
    """Leave the pages between two addresses out of the pages' file, and put them into one of their own, each
    at its place; what nobody has written to is a hole there, and reads as zeros."""
    kept_path = pages_path + ".new"
    with (
        open(pages_path, "rb") as pages,
        open(kept_path, "wb", opener=_for_owner) as kept,
        open(heap_path, "wb", opener=_for_owner) as heap,
    ):
        heap.truncate(end - begin)
        for run in runs:
            if not run.present:
                continue
            to = kept
            if begin <= run.address < end:
                to = heap
                heap.seek(run.address - begin)
            left = run.pages * _PAGE
            while left:
                chunk = pages.read(min(left, _CHUNK))
                to.write(chunk)
                left -= len(chunk)
    os.replace(kept_path, pages_path)


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _named(folder: str, begin: str) -> list[str]:
    return [entry.path for entry in os.scandir(folder) if entry.name.startswith(begin)]


def _read(path: str) -> tuple[bytes, list[Message]]:
    """An image: its magic numbers and its messages."""
    with open(path, "rb") as file:
        data = file.read()
    messages, at = [], _MAGIC
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        messages.append(_message(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return data[:_MAGIC], messages


def _write(path: str, magic: bytes, messages: Iterable[Message]) -> None:
    with open(path, "wb") as file:
        file.write(magic)
        for message in map(_packed, messages):
            file.write(struct.pack("<I", len(message)) + message)


def _number(message: Message, field: int, default: int | None = None) -> int:
    """A field's number. Raises KeyError where it is not there and has no default."""
    if field not in message and default is not None:
        return default
    (value,) = message[field]
    if not isinstance(value, int):
        raise ValueError(f"field {field} is no number")
    return value


def _message(data: int | bytes) -> Message:
    """Raises ValueError, IndexError where it is none, or has numbers of fixed width, which CRIU's do not."""
    if isinstance(data, int):
        raise ValueError("a number stands where a message should")
    found: Message = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, at = _varint(data, at)
        values = found.setdefault(key >> 3, [])
        if key & 7 == 2:
            values.append(data[at : at + number])
            at += number
        elif key & 7 == 0:
            values.append(number)
        else:
            raise ValueError(f"a field of type {key & 7}")
    return found


def _packed(message: Message) -> bytes:
    data = bytearray()
    for field, values in sorted(message.items()):
        for value in values:
            if isinstance(value, int):
                data += _as_varint(field << 3) + _as_varint(value)
            else:
                data += _as_varint(field << 3 | 2) + _as_varint(len(value)) + value
    return bytes(data)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _as_varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
