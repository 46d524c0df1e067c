"""One flat registry of hooks: before a snapshot last in, first out; after a restore first in, first out.

That is the order of Lambda's own registry (snapshot_restore_py), which takes these hooks over on Lambda; then
Lambda's runtime runs them, among those that were registered there directly. A hook that raises ends the
process: what it was to undo is in the snapshot, or what it was to renew is not.
"""

from __future__ import annotations

from ..errors import UsageError

TYPE_CHECKING = False  # as `typing` has it, whose import a restore by CRIU would wait for
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Hook = Callable[[], Any]
    AnyHook = TypeVar("AnyHook", bound=Hook)

_before: list[Hook] = []
_after: list[Hook] = []
_lambda: Any = None


def before(hook: AnyHook) -> AnyHook:
    """Call ``hook`` before a snapshot is taken: close what must not be in it. A decorator."""
    _before.append(hook)
    if _lambda is not None:
        _lambda.register_before_snapshot(hook)
    return hook


def after(hook: AnyHook) -> AnyHook:
    """Call ``hook`` after a restore, before the first request: renew what must not repeat. A decorator.

    On Lambda all of them together have 10 seconds.
    """
    _after.append(hook)
    if _lambda is not None:
        _lambda.register_after_restore(hook)
    return hook


def run_before() -> None:
    """Run the hooks before a snapshot; raises what they raise. Not on Lambda, whose runtime does it."""
    for hook in reversed(_before):
        hook()


def run_after() -> None:
    """Run the hooks after a restore; raises what they raise. Not on Lambda, whose runtime does it."""
    for hook in _after:
        hook()


def on_lambda() -> None:
    """Hand the hooks to Lambda's runtime, in order, and every later one as it comes. Raises UsageError where
    the runtime's registry is not installed."""
    global _lambda
    if _lambda is not None:
        return
    try:
        import snapshot_restore_py
    except ModuleNotFoundError as missing:
        raise UsageError(
            "SnapStart needs the hooks of Lambda's runtime: pip install snapshot-restore-py; Lambda's own "
            "Python has it from 3.12 on"
        ) from missing
    _lambda = snapshot_restore_py
    for hook in _before:
        _lambda.register_before_snapshot(hook)
    for hook in _after:
        _lambda.register_after_restore(hook)
