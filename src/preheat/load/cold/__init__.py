"""Making a target cold, a plug-in a target. Each returns when the target says that it is so, or raises.

A plug-in is a function that takes what stands behind the colon of ``--cold NAME:WHAT`` and the target's URL.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ...errors import PreheatError, UsageError
from ..run import ForceCold

PLACES = (
    "up: scaled to zero through `preheat up`'s own API; up:FUNCTION where the URL does not name it",
    "lambda:FUNCTION:ALIAS: a new version is published and the alias moved to it",
    "knative:NAMESPACE/SERVICE: its pods are deleted; knative-wait:…: waits until there are none",
)
_MODULES = {"up": "up", "lambda": "aws_lambda", "knative": "knative", "knative-wait": "knative"}


class NotColdError(PreheatError):
    """The target could not be made cold, or does not confirm it."""

    code = "not_cold"


def plug_in(named: str, url: str) -> ForceCold:
    """Raises UsageError for a plug-in that is not there, or that is told too little."""
    name, _, what = named.partition(":")
    if name not in _MODULES:
        raise UsageError(f"--cold {name!r} is not known; there are\n  " + "\n  ".join(PLACES))
    make: Callable[[str, str, str], ForceCold] = import_module(f".{_MODULES[name]}", __name__).force_cold
    return make(name, what, url)
