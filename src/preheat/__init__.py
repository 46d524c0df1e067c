"""Preheat: serverless inference that starts hot.

Importing this package costs nothing: each public name is loaded when it is first asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, whose import is not free
if TYPE_CHECKING:
    from typing import Any

    from .function import Function as Function
    from .tasks import Task as Task
    from .tensors import Tensors as Tensors

__version__ = "0.1.0"
__all__ = ["Function", "Task", "Tensors", "__version__"]

_HOMES = {"Function": "function", "Task": "tasks", "Tensors": "tensors"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
