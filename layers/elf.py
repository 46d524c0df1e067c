"""What the shared objects of a layer need, held against what Amazon Linux 2023 and the layer itself have.

For every Python and architecture, without running anything: the machine, NEEDED libraries, versions of
symbols, and symbols that no library there defines, as where a library was pruned.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any, NamedTuple

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

from .targets import Target

SYSTEM = {
    "GLIBC": (2, 34),
    "GLIBCXX": (3, 4, 29),
    "CXXABI": (1, 3, 13),
    "GCC": (11, 0),
    "ZLIB": (1, 2, 9),
}
"""The newest symbol versions that may be asked for. Amazon Linux 2023 user guide, "Core toolchain packages":
glibc 2.34, gcc 11. Its images have carried gcc 14's libstdc++ since (mayeut/pep600_compliance,
cache/*/amazonlinux-2023.json: GLIBCXX_3.4.33), and Lambda's may lag behind: gcc 11's are the bound."""

LIBRARIES = {
    *("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1"),
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    *("libgcc_s.so.1", "libstdc++.so.6", "libz.so.1"),
}
"""Of the system, and no others: glibc's and gcc's, and zlib, which manylinux lets wheels take from there
(numpy's libgfortran for Python 3.11 does)."""

UNVERSIONED = {"dladdr", "dlclose", "dlerror", "dlopen", "dlsym"}
"""Taken without a version by what was linked without libdl, as numpy is: glibc has them in libc.so.6 since
2.34 (its NEWS), and every interpreter has loaded that."""

MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}

_PYTHON = re.compile(r"_?Py[A-Z_]")


class SharedObject(NamedTuple):
    path: str
    machine: str
    needed: tuple[str, ...]
    search: tuple[str, ...]
    """Its RUNPATH or RPATH, with $ORIGIN as it stands."""
    versions: tuple[tuple[str, str], ...]
    """(library, version) of versioned symbols that it takes."""
    undefined: frozenset[str]
    """Symbols that it takes, without a version, and cannot do without."""
    defined: frozenset[str]


def read(folder: Path, path: str) -> SharedObject | None:
    """One file; None where it is not ELF. Raises ValueError where it is and is damaged."""
    with (folder / path).open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return None
        try:
            elf = ELFFile(file)
            size = os.fstat(file.fileno()).st_size
            if any(part["p_offset"] + part["p_filesz"] > size for part in elf.iter_segments()):
                raise ValueError("it ends before its segments do")
            return _read(elf, path)
        except Exception as error:  # pyelftools' own, struct's, construct's: whatever the damage leads to
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from None


def _read(elf: ELFFile, path: str) -> SharedObject:
    needed: list[str] = []
    search: list[str] = []
    versions: set[tuple[str, str]] = set()
    undefined: set[str] = set()
    defined: set[str] = set()
    versioned: dict[int, bool] = {}
    dynamic = False
    tag: Any  # its attributes are named after its kind
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            dynamic = True
            for tag in section.iter_tags():
                if tag.entry.d_tag == "DT_NEEDED":
                    needed.append(tag.needed)
                elif tag.entry.d_tag in ("DT_RUNPATH", "DT_RPATH"):
                    text = tag.runpath if tag.entry.d_tag == "DT_RUNPATH" else tag.rpath
                    search += text.split(":")
        elif isinstance(section, GNUVerNeedSection):
            for library, symbols in section.iter_versions():
                versions |= {(str(library.name), symbol.name) for symbol in symbols}
        elif isinstance(section, GNUVerSymSection):
            for index, symbol in enumerate(section.iter_symbols()):
                versioned[index] = isinstance(symbol["ndx"], int) and symbol["ndx"] > 1
    table = elf.get_section_by_name(".dynsym")
    if not dynamic or not isinstance(table, SymbolTableSection):
        raise ValueError("it has no dynamic section or no symbols")
    for index, symbol in enumerate(table.iter_symbols()):
        if not symbol.name:
            continue
        if symbol["st_shndx"] != "SHN_UNDEF":
            defined.add(symbol.name)
        elif symbol["st_info"]["bind"] != "STB_WEAK" and not versioned.get(index, False):
            undefined.add(symbol.name)
    machine = MACHINES.get(elf["e_machine"], str(elf["e_machine"]))
    return SharedObject(
        *(path, machine, tuple(needed), tuple(search), tuple(sorted(versions))),
        *(frozenset(undefined), frozenset(defined)),
    )


def check(folder: Path, paths: list[str], target: Target) -> list[str]:
    """What is wrong with the shared objects among a layer's files (``paths``, relative to ``folder``), a line
    each."""
    wrong: list[str] = []
    objects: dict[str, SharedObject] = {}
    for path in paths:
        try:
            found = read(folder, path)
        except ValueError as error:
            wrong.append(str(error))
            continue
        if found is not None:
            objects[path] = found
    for found in objects.values():
        wrong += _problems(found, objects, target)
    return wrong


def _problems(found: SharedObject, objects: dict[str, SharedObject], target: Target) -> list[str]:
    if found.machine != target.machine:
        return [f"{found.path} is for {found.machine}, not for {target.machine}"]
    wrong = []
    reachable: set[str] = set()
    pending = [found]
    while pending:
        here = pending.pop()
        for library in here.needed:
            inside = _inside(here, library, objects)
            if inside is not None and inside not in reachable:
                reachable.add(inside)
                pending.append(objects[inside])
            elif inside is None and library not in LIBRARIES and here is found:
                wrong.append(
                    f"{found.path} needs {library}, which neither the layer nor Amazon Linux 2023 has"
                )
    for library, version in found.versions:
        family, _, number = version.partition("_")
        limit = SYSTEM.get(family)
        if library in LIBRARIES and (limit is None or _number(number) > limit):
            have = f"{family}_{'.'.join(map(str, limit))}" if limit else f"no {family}"
            wrong.append(f"{found.path} needs {version} of {library}; Amazon Linux 2023 has {have}")
    defined = UNVERSIONED.union(*(objects[path].defined for path in reachable))
    missing = sorted(s for s in found.undefined if s not in defined and not _PYTHON.match(s))
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        wrong.append(f"{found.path} takes {len(missing)} symbols that nothing defines: {shown}")
    return wrong


def _inside(found: SharedObject, library: str, objects: dict[str, SharedObject]) -> str | None:
    """The layer's own file that the loader takes for a NEEDED entry, by $ORIGIN."""
    origin = posixpath.dirname(found.path)
    for place in found.search:
        if place.startswith("$ORIGIN"):
            path = posixpath.normpath(
                posixpath.join(origin, place.removeprefix("$ORIGIN").lstrip("/"), library)
            )
            if path in objects:
                return path
    return None


def _number(text: str) -> tuple[int, ...]:
    """``2.34`` → (2, 34). What is no number (PRIVATE) sorts past every limit."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else (1 << 30,)
