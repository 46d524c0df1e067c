"""Build an artifact from a trained model. Offline only: nothing of the run time imports it.

``build`` is the whole path (pipeline.py); every step that opens a session, quantises or exports runs in a
process of its own (isolated.py), so that its memory and its crashes stay out of the builder.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline import build as build
    from .progress import Step as Step

__all__ = ["Step", "build"]
_HOMES = {"Step": "progress", "build": "pipeline"}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: a trial's process imports this package, and its memory is what is measured.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
