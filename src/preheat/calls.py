"""A request as the core takes it from any door, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .admission import Place
    from .answer import Answer
    from .bootstrap import Loaded
    from .errors import PreheatError
    from .models import Model
    from .tensors import Padding, Tensors


class Call(NamedTuple):
    """A request, decoded and checked: what to run, and what to make of it."""

    inputs: Tensors
    finish: Callable[[Tensors], Answer]
    """The answer from the outputs. Raises RequestError where they cannot be told."""
    outputs: Sequence[str] | None = None
    """Names of those wanted; None for all."""
    padding: Padding | None = None
    """How its inputs may be made longer to be run with others; None: not at all."""


class Key(NamedTuple):
    """A request's idempotency key, in its scope."""

    name: str
    """The record's name in the ledger."""
    fingerprint: Callable[[Loaded], str]
    """What another request under the same key must equal."""
    wait: float = 0.0
    """Seconds to wait for another execution of the key that runs now."""


class Request(NamedTuple):
    prepare: Callable[[Loaded], Call]
    """Decode and check; called at most once. Raises RequestError."""
    arrived_ns: int
    """``perf_counter_ns`` at arrival."""
    deadline_ns: int = 0
    """``perf_counter_ns`` after which no answer is wanted; 0: the service's own timeout alone."""
    tenant: str = ""
    key: Key | None = None
    link: str = ""
    """``traceparent`` of the request that left this one for later; empty for one that is answered at once."""
    model: Model | None = None
    """The further model that it is for; None: the function's own."""
    place: Place | None = None
    """The place that it has already; None: it has none yet."""


class Outcome(NamedTuple):
    answer: Answer | PreheatError
    """An error only where it was recorded, and is replayed as the answer is."""
    cold: bool
    """Whether the request waited for the start, or was the first after it."""
    waited_ns: int
    """From arrival to its turn; all of the time where it had none."""
    ran_ns: int
    loaded: Loaded
    """What answered it, or would have."""
    replayed: bool = False
    """Whether another execution of its key gave the answer."""
    degraded: str = ""
    """In what way this is less than was asked for; empty for none."""
    variant: str = ""
    """What it ran on; empty where it did not run for this request."""
