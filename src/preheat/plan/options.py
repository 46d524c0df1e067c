"""The ways to run a function that a plan compares: how each is named, and what may be said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import UsageError
from .platforms import AUTOSCALED

LAMBDA = "lambda"
_SCALED = {
    "min": "instances that always are",
    "max": "instances at most",
    "concurrency": "requests that one instance gets at once",
    "target": "requests in flight aimed at for each instance",
    "cpu": "CPUs of an instance",
    "turns": "requests that an instance answers at once",
    "window": "the stable window, in seconds",
    "panic": "the panic window, as a percentage of the stable one",
    "threshold": "the percentage of what is ready at which panic begins",
    "grace": "seconds that the last instance stays after a stable window of nothing",
}
KEYS: dict[str, dict[str, str]] = {
    LAMBDA: {
        "memory": "MB of an instance",
        "snapstart": "1: versions are published with SnapStart",
        "provisioned": "instances of provisioned concurrency",
        "ping": "seconds between two keep-warm events",
        "pings": "keep-warm events at once",
        "concurrency": "instances at once, past which requests are throttled",
    },
    "knative": _SCALED,
    "cloudrun": _SCALED,
    "up": {**_SCALED, "starting": "instances that start at once", "queue": "requests that may wait"},
}
"""What each platform takes, and what it means."""
_WHOLE = {
    "memory",
    "snapstart",
    "provisioned",
    "pings",
    "concurrency",
    "min",
    "max",
    "turns",
    "starting",
    "queue",
}
_FROM_ZERO = {"snapstart", "provisioned", "min", "grace", "queue", "starting"}
"""What may be 0."""
_MOST = {"min": 1000, "max": 1000, "concurrency": 10_000, "turns": 128, "snapstart": 1, "provisioned": 10_000}


class Option(NamedTuple):
    platform: str
    given: dict[str, float]

    @property
    def name(self) -> str:
        """As ``parse`` takes it."""
        said = ",".join(
            key if key == "snapstart" and value == 1 else f"{key}={value:g}"
            for key, value in self.given.items()
        )
        return f"{self.platform}:{said}" if said else self.platform


def parse(texts: Sequence[str]) -> list[Option]:
    """``PLATFORM[:KEY=VALUE,…]``, each once. Raises UsageError that lists what there is."""
    found: dict[str, Option] = {}
    for text in texts:
        option = _parse(text)
        if option.name in found:
            raise UsageError(f"--options {option.name} is named twice")
        found[option.name] = option
    return list(found.values())


def _parse(text: str) -> Option:
    platform, _, rest = text.strip().partition(":")
    if platform not in KEYS:
        raise UsageError(
            f"--options {text!r}: the platform must be one of {', '.join((LAMBDA, *AUTOSCALED))}"
        )
    given: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        keys = KEYS[platform]
        if key not in keys:
            raise UsageError(f"--options {text!r}: {platform} takes {', '.join(keys)}, not {key!r}")
        if key in given:
            raise UsageError(f"--options {text!r}: {key} is said twice")
        given[key] = _value(text, key, value if equals else ("1" if key == "snapstart" else ""))
    _check(text, platform, given)
    return Option(platform, given)


def _value(text: str, key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    least = 0.0 if key in _FROM_ZERO else (1.0 if key in _WHOLE else 1e-3)
    if not least <= number <= _MOST.get(key, 1_000_000) or (key in _WHOLE and number != int(number)):
        kind = "a whole number" if key in _WHOLE else "a number"
        most = _MOST.get(key, 1_000_000)
        raise UsageError(
            f"--options {text!r}: {key} must be {kind} from {least:g} to {most:,}, not {value!r}"
        )
    return number


def _check(text: str, platform: str, given: dict[str, float]) -> None:
    if given.get("snapstart") and given.get("provisioned"):
        raise UsageError(f"--options {text!r}: Lambda has no SnapStart with provisioned concurrency")
    if "pings" in given and "ping" not in given:
        raise UsageError(f"--options {text!r}: pings needs ping, the seconds between them")
    if given.get("min", 0) > given.get("max", math.inf):
        raise UsageError(f"--options {text!r}: min must not be above max")
    least = 0.1 if platform == "up" else 6  # Knative's, pkg/apis/autoscaling/register.go
    if not least <= given.get("window", least) <= 3600:
        raise UsageError(f"--options {text!r}: window must be {least:g} to 3600 seconds")
    if not 1 <= given.get("panic", 10) <= 100 or not 110 <= given.get("threshold", 200) <= 1000:
        raise UsageError(f"--options {text!r}: panic must be 1 to 100 percent, threshold 110 to 1000")


def usual(busy: int) -> list[Option]:
    """What is compared where nothing is named. ``busy``: instances that the traffic keeps at work."""
    return parse(
        [
            "lambda",
            "lambda:snapstart",
            "lambda:ping=300",
            f"lambda:provisioned={busy}",
            "cloudrun",
            "cloudrun:min=1",
            "knative",
            "knative:grace=600",
            "knative:min=1",
        ]
    )
