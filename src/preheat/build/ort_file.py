"""Make an ORT format file the same in every build.

The file is a flatbuffer. onnxruntime writes the model itself in a fixed order, but the kernel type string
resolver in front of it in the order of a hash table, which changes from process to process, and its size with
it. So the resolver is written anew, in the order of its keys, behind the model, and the model moved up to
where it was.

Sources: onnxruntime's ort.fbs (InferenceSession, KernelTypeStrResolver and the three tables below it) and
the flatbuffers internals document.
"""

from __future__ import annotations

import mmap
import struct

from ..errors import BuildError

IDENTIFIER = b"ORTM"
_SLOTS, _MODEL, _RESOLVER = 4, 1, 3
"""Slots of InferenceSession: ort_version, model, session_state, kernel_type_str_resolver."""
_ROOT = 20
"""Where the root table lies in what is written here: behind its own offset, the identifier and its vtable."""
_ALIGNED = 8
"""What the objects of the model are aligned to; the model moves by multiples of this."""

Argument = tuple[int, int]
"""ArgTypeAndIndex: arg_type (int8), index (uint32)."""
Arguments = tuple[tuple[bytes, tuple[Argument, ...]], ...]
"""KernelTypeStrArgsEntry, several: kernel_type_str, args."""
Resolver = tuple[tuple[bytes, Arguments], ...]
"""OpIdKernelTypeStrArgsEntry, several: op_id, kernel_type_str_args."""


def settle(path: str) -> None:
    """Rewrite the file in place. Raises BuildError where it is laid out in a way that is not known here."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        view = _View(data)
        if data[4:8] != IDENTIFIER:
            raise BuildError("the file that onnxruntime wrote is not in ORT format")
        root = view.target(0)
        field = view.field(root, _RESOLVER, _SLOTS)
        if not field:
            return
        resolver = _read(view, view.target(field))
        model = view.target(view.field(root, _MODEL))
        # A flatbuffer is written from its end to its beginning: what lies before the model came after it.
        begin, end = root + view.table_size(root), min(model, view.vtable(model))
        table = bytearray(data[root:begin])
        targets = {}
        for slot in range(_SLOTS):
            found = view.field(root, slot)
            if found and slot != _RESOLVER:
                targets[found - root] = view.target(found)
        if not begin <= view.target(field) < end or any(target < end for target in targets.values()):
            raise BuildError("the resolver in the ORT format file is not where it is expected")
        offsets = view.vtable_bytes(root)
        start = _ROOT + len(table)
        start += (end - start) % _ALIGNED
        if len(offsets) > _ROOT - 8 or start > end:
            raise BuildError("the ORT format file begins in a way that is not known here")
        size = len(data) - (end - start)
        place = -(-size // 8) * 8
        targets = {at: target - (end - start) for at, target in targets.items()}
        targets[field - root] = place + _Block.ROOT
        struct.pack_into("<i", table, 0, len(offsets))
        for at, target in targets.items():
            struct.pack_into("<I", table, at, target - (_ROOT + at))
        data.move(start, end, len(data) - end)
        head = (
            struct.pack("<I", _ROOT) + IDENTIFIER + bytes(_ROOT - 8 - len(offsets)) + offsets + bytes(table)
        )
        data[:start] = head + bytes(start - len(head))
        data.flush()
    with open(path, "r+b") as file:
        file.truncate(size)
        file.seek(0, 2)
        file.write(bytes(place - size) + _write(resolver))


def _read(view: _View, table: int) -> Resolver:
    return tuple(
        sorted(
            (
                view.text(view.field(entry, 0)),
                tuple(
                    sorted(
                        (
                            view.text(view.field(kernel, 0)),
                            tuple(view.argument(a) for a in view.tables(view.field(kernel, 1), 2)),
                        )
                        for kernel in view.tables(view.field(entry, 1), 2)
                    )
                ),
            )
            for entry in view.tables(view.field(table, 0, slots=1), 2)
        )
    )


def _write(resolver: Resolver) -> bytes:
    block = _Block()
    (top,) = block.table(1)
    entries = block.vector(top, len(resolver))
    for entry, (op_id, kernels) in zip(entries, resolver, strict=True):
        name, inner = block.table(2, at=entry)
        block.text(name, op_id)
        for kernel, (kind, arguments) in zip(block.vector(inner, len(kernels)), kernels, strict=True):
            name, innermost = block.table(2, at=kernel)
            block.text(name, kind)
            places = block.vector(innermost, len(arguments))
            for place, (which, index) in zip(places, arguments, strict=True):
                first, second = block.table(2, at=place)
                struct.pack_into("<b", block.data, first, which)
                struct.pack_into("<I", block.data, second, index)
    return bytes(block.data)


class _View:
    """Reads flatbuffer objects. Position 0 stands for a field that is not there."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data

    def target(self, position: int) -> int:
        """Where the offset at a position points."""
        return position + self.uint32(position)

    def vtable(self, table: int) -> int:
        (back,) = struct.unpack_from("<i", self.data, table)
        return table - int(back)

    def table_size(self, table: int) -> int:
        return self._uint16(self.vtable(table) + 2)

    def vtable_bytes(self, table: int) -> bytes:
        vtable = self.vtable(table)
        return self.data[vtable : vtable + self._uint16(vtable)]

    def field(self, table: int, slot: int, slots: int = 0) -> int:
        """The position of a table's field. ``slots``: how many the table may have, if that is to be held."""
        vtable = self.vtable(table)
        size = self._uint16(vtable)
        if slots and size > 4 + 2 * slots:
            raise BuildError("the ORT format file has fields that are not known here")
        offset = self._uint16(vtable + 4 + 2 * slot) if 4 + 2 * slot < size else 0
        return table + offset if offset else 0

    def tables(self, field: int, slots: int) -> list[int]:
        """The tables of a vector of tables, each with no more than ``slots`` fields."""
        if not field:
            return []
        vector = self.target(field)
        found = [self.target(vector + 4 + 4 * index) for index in range(self.uint32(vector))]
        for table in found:
            self.field(table, 0, slots)
        return found

    def text(self, field: int) -> bytes:
        if not field:
            return b""
        begin = self.target(field) + 4
        return self.data[begin : begin + self.uint32(begin - 4)]

    def uint32(self, position: int) -> int:
        return int(struct.unpack_from("<I", self.data, position)[0])

    def argument(self, table: int) -> Argument:
        """An ArgTypeAndIndex; fields that are 0 are not written."""
        which, index = self.field(table, 0), self.field(table, 1)
        kind = int(struct.unpack_from("<b", self.data, which)[0]) if which else 0
        return kind, self.uint32(index) if index else 0

    def _uint16(self, position: int) -> int:
        return int(struct.unpack_from("<H", self.data, position)[0])


class _Block:
    """Writes flatbuffer objects, each behind what points to it. Every field takes a cell of 4 bytes."""

    ROOT = 16
    """Where the first table lies: behind the two vtables that all tables share."""

    def __init__(self) -> None:
        one, two = struct.pack("<4H", 6, 8, 4, 0), struct.pack("<4H", 8, 12, 4, 8)
        self.data = bytearray(one + two)

    def table(self, cells: int, at: int = 0) -> list[int]:
        """A new table, linked from the cell ``at`` if there is one; gives its cells."""
        place = self._link(at)
        self.data += struct.pack("<i", place - (0 if cells == 1 else 8)) + bytes(4 * cells)
        return [place + 4 * (cell + 1) for cell in range(cells)]

    def vector(self, at: int, length: int) -> list[int]:
        """A new vector of offsets, linked from the cell ``at``; gives its cells."""
        place = self._link(at)
        self.data += struct.pack("<I", length) + bytes(4 * length)
        return [place + 4 * (cell + 1) for cell in range(length)]

    def text(self, at: int, text: bytes) -> None:
        self._link(at)
        self.data += struct.pack("<I", len(text)) + text + bytes(4 - len(text) % 4)

    def _link(self, at: int) -> int:
        place = len(self.data)
        if at:
            struct.pack_into("<I", self.data, at, place - at)
        return place
