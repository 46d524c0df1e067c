"""A load test as data: a TOML file with requests to send and steps in which they arrive."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..deploy.aws_tables import read
from ..errors import UsageError
from .fields import Fields
from .traces import replayed

ARRIVALS = ("poisson", "constant", "burst", "idle", "trace", "concurrency")
EXPECTED = ("any", "cold", "warm")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
MOST_REQUESTS = 5_000_000
"""Of one scenario: its schedule is held in memory."""


class Payload(NamedTuple):
    method: str
    path: str
    """Put behind the target's own path."""
    headers: Mapping[str, str]
    body: bytes
    weight: float


class Step(NamedTuple):
    """How requests arrive for a while. One of ARRIVALS; a number that its kind does not use is 0 or empty."""

    name: str
    arrivals: str
    rates: tuple[float, ...]
    """Requests a second, or requests at once (``concurrency``); each for ``duration_s``."""
    duration_s: float
    burst: int
    """Requests of a burst."""
    times: tuple[float, ...]
    """Of a trace: seconds from its first request."""
    chosen: tuple[int, ...]
    """Of a trace that says so: the request of each of its lines."""
    expect: str
    cold: bool
    """Whether every repetition begins with a target that was made cold."""
    repeat: int

    @property
    def seconds(self) -> float:
        """Of one repetition."""
        if self.arrivals == "trace":
            return self.times[-1]
        return self.duration_s * max(len(self.rates), 1)

    @property
    def closed(self) -> bool:
        return self.arrivals == "concurrency"


class Retry(NamedTuple):
    most: int
    wait_s: float
    """Where an answer has no Retry-After."""
    most_wait_s: float


class Scenario(NamedTuple):
    name: str
    about: str
    seed: int
    timeout_s: float
    """From a request's intended moment to its last byte, retries included."""
    connections: int
    """Open at once, a process."""
    objective_ms: float
    """An answer within it counts as good."""
    keys: bool
    """Whether each request carries an Idempotency-Key of its own."""
    duplicates: float
    """Share of requests that are sent twice, under one key."""
    retry: Retry
    payloads: tuple[Payload, ...]
    steps: tuple[Step, ...]
    digest: str
    """Of all that decides what is sent: two runs of equal digests were asked the same."""

    @property
    def seconds(self) -> float:
        return sum(step.seconds * step.repeat for step in self.steps)

    @property
    def cold(self) -> bool:
        return any(step.cold for step in self.steps)


def load(path: str) -> Scenario:
    """Read a scenario. Raises UsageError that names the file, the table and the field."""
    return _scenario(read(path), path)


def _scenario(document: Mapping[str, Any], path: str) -> Scenario:
    folder = os.path.dirname(os.path.abspath(path))
    top = Fields(document, path)
    top.whole("schema", 1, least=1, most=1)
    name = top.text("name", Path(path).stem)
    keys = Fields(top.raw("keys", {}), f"{path}, [keys]")
    retry = Fields(top.raw("retry", {}), f"{path}, [retry]")
    found = Scenario(
        name=name,
        about=top.text("about", ""),
        seed=top.whole("seed", 1),
        timeout_s=top.number("timeout_s", 30.0, most=3600),
        connections=top.whole("connections", 1000, least=1, most=60_000),
        objective_ms=top.number("objective_ms", 1000.0),
        keys=keys.flag("each", False),
        duplicates=keys.number("duplicates", 0.0, most=1.0, zero=True),
        retry=Retry(
            retry.whole("most", 0, most=20),
            retry.number("wait_s", 0.5),
            retry.number("most_wait_s", 10.0),
        ),
        payloads=tuple(
            _payload(table, f"{path}, requests[{i}]", folder)
            for i, table in enumerate(_tables(top, "requests"))
        ),
        steps=tuple(
            _step(table, f"{path}, steps[{i}]", folder, i) for i, table in enumerate(_tables(top, "steps"))
        ),
        digest="",
    )
    for fields in (keys, retry, top):
        fields.done()
    _check(found, path)
    return found._replace(digest=_digest(found))


def _tables(top: Fields, name: str) -> list[Any]:
    tables = top.raw(name)
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{top.where}: there must be at least one [[{name}]]")
    return tables


def _payload(table: object, where: str, folder: str) -> Payload:
    fields = Fields(table, where)
    bodies = [name for name in ("json", "text", "base64", "file") if name in fields]
    if len(bodies) > 1:
        raise UsageError(f"{where}: {' and '.join(bodies)} contradict each other; a request has one body")
    headers = {k.lower(): v for k, v in fields.texts("headers").items()}
    body, kind = b"", ""
    if "json" in fields:
        body, kind = json.dumps(fields.raw("json")).encode(), "application/json"
    elif "text" in fields:
        body, kind = fields.text("text").encode(), "text/plain; charset=utf-8"
    elif "base64" in fields:
        body, kind = _decoded(fields), "application/octet-stream"
    elif "file" in fields:
        body, kind = _read(os.path.join(folder, fields.text("file")), where), "application/octet-stream"
    path = fields.text("path")
    if not path.startswith("/") or path.startswith("//"):
        raise UsageError(
            f"{where}: path must begin with one /, and comes behind the target's URL; it is {path!r}"
        )
    method = fields.one_of("method", METHODS, "POST" if body else "GET")
    if kind:
        headers.setdefault("content-type", kind)
    weight = fields.number("weight", 1.0)
    fields.done()
    return Payload(method, path, headers, body, weight)


def _decoded(fields: Fields) -> bytes:
    try:
        return base64.b64decode(fields.text("base64"), validate=True)
    except binascii.Error as error:
        raise UsageError(f"{fields.where}: base64 is none: {error}") from None


def _read(path: str, where: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{where}: {path} cannot be read: {error.strerror}") from None


def _step(table: object, where: str, folder: str, index: int) -> Step:
    fields = Fields(table, where)
    kind = fields.one_of("arrivals", ARRIVALS)
    rates: list[float] = []
    duration, burst = 0.0, 0
    times: tuple[float, ...] = ()
    chosen: tuple[int, ...] = ()
    if kind in ("poisson", "constant"):
        rates, duration = fields.numbers("rate"), fields.number("duration_s")
    elif kind == "concurrency":
        rates, duration = fields.numbers("concurrency"), fields.number("duration_s")
        if any(rate != int(rate) for rate in rates):
            raise UsageError(f"{where}: concurrency must be whole numbers of requests at once")
    elif kind == "burst":
        burst = fields.whole("count", least=1)
    elif kind == "idle":
        duration = fields.number("duration_s")
    else:
        speed = fields.number("speed", 1.0)
        times, chosen = replayed(os.path.join(folder, fields.text("file")), speed)
    expect = fields.one_of("expect", EXPECTED, "any")
    cold, repeat = fields.flag("cold", False), fields.whole("repeat", 1, least=1, most=100_000)
    name = fields.text("name", f"{index + 1}: {kind}")
    fields.done()
    if kind == "idle" and (cold or expect != "any"):
        raise UsageError(f"{where}: an idle step sends nothing, so expect and cold say nothing here")
    if cold and expect == "warm":
        raise UsageError(f'{where}: cold = true and expect = "warm" contradict each other')
    return Step(name, kind, tuple(rates), duration, burst, times, chosen, expect, cold, repeat)


def _check(scenario: Scenario, path: str) -> None:
    names = [step.name for step in scenario.steps]
    if len(set(names)) < len(names):
        raise UsageError(f"{path}: two steps have the same name")
    if all(step.arrivals == "idle" for step in scenario.steps):
        raise UsageError(f"{path}: every step is idle; nothing would be sent")
    if scenario.duplicates and not scenario.keys:
        raise UsageError(f"{path}: keys.duplicates needs keys.each = true: only a key makes two requests one")
    for step in scenario.steps:
        over = [chosen for chosen in step.chosen if chosen >= len(scenario.payloads)]
        if over:
            raise UsageError(
                f"{path}: the trace of step {step.name!r} asks for request {over[0]}; "
                f"there are {len(scenario.payloads)}, counted from 0"
            )
        if step.closed and scenario.duplicates:
            raise UsageError(
                f"{path}: step {step.name!r} waits for each answer, so keys.duplicates cannot hold in it"
            )
    wanted = sum(_count(step) * step.repeat for step in scenario.steps)
    if wanted > MOST_REQUESTS:
        raise UsageError(f"{path}: {wanted:,.0f} requests; a run sends at most {MOST_REQUESTS:,}")


def _count(step: Step) -> float:
    if step.arrivals in ("poisson", "constant"):
        return sum(step.rates) * step.duration_s
    return len(step.times) or step.burst


def _digest(scenario: Scenario) -> str:
    sent = scenario._replace(name="", about="", objective_ms=0.0)
    return hashlib.sha256(repr(sent).encode()).hexdigest()[:16]
