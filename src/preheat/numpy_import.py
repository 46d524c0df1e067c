"""numpy imported without the docstrings of what it has in C, which nobody reads in a server.

They are added at import by modules that do nothing else, in 5 of the 210 ms of CPU of a start (MiniLM). As
with ``python -OO``, where numpy adds none either, ``__doc__`` is then None. Who has imported numpy before,
a function's own module say, keeps them; ``import numpy._core._add_newdocs`` adds them later.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

ADD_DOCS = ("_add_newdocs", "_add_newdocs_scalars")
CORES = ("numpy._core", "numpy.core")
"""Where they are: from numpy 2 on, and before. Elsewhere they are imported as ever."""


class _Left(ModuleType):
    """Stands for a module that is left out, until something is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def import_numpy() -> None:
    """Import numpy, unless that was done. Raises what its import raises."""
    if "numpy" in sys.modules:
        return
    left = [_Left(f"{core}.{name}") for core in CORES for name in ADD_DOCS]
    sys.modules.update({module.__name__: module for module in left})
    try:
        import numpy  # noqa: F401
    finally:
        for module in left:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
