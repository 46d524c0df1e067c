"""`preheat up`: a burst on an idle function, a lone request from zero, and what the gateway adds to a warm
one.

In each round a plain fresh start is measured too, as `preheat measure` does it; all meet the same weather.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from preheat.errors import EngineError
from preheat.measure import target
from preheat.measure.client import Response, connect, free_port, read_response, request
from preheat.measure.run import Progress
from preheat.measure.start import START_S, Contender, cold_start, stop
from preheat.snapshot import criu

from . import floors
from .figures import Benchmark, Claim, Line
from .models import OUT, server_environ

KINDS = ("fresh", "fork")
BURST = 50
MOST = 8
BLOCK = 100
"""Warm requests in a row, on one connection."""
JSON = {"content-type": "application/json"}


class Up(NamedTuple):
    port: int
    name: str
    process: subprocess.Popen[bytes]

    def connect(self) -> socket.socket:
        alive = self.process.poll
        return connect(self.port, deadline=time.monotonic() + START_S, alive=lambda: alive() is None)

    def control(self, method: str, path: str, document: Any = None) -> Any:
        """What the gateway's own interface answers. Raises EngineError where that is no success."""
        body = b"" if document is None else json.dumps(document).encode()
        with self.connect() as client:
            client.sendall(request(method, f"/_preheat/{path}", body, JSON))
            response = read_response(client, deadline=time.monotonic() + START_S)
        if response.status != 200:
            raise EngineError(f"the gateway answered {response.status}: {response.body[:200]!r}")
        return json.loads(response.body)

    def to_zero(self) -> None:
        self.control("POST", f"functions/{self.name}/scale", {"instances": 0})


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    subject = target.find(str(artifact), server_environ())
    server = target.server(subject)
    path, body, headers, _ = target.conversation(subject)
    sent = request("POST", path, body, headers, keep=True)
    found: defaultdict[str, list[float]] = defaultdict(list)
    missing = wrong = 0
    OUT.mkdir(parents=True, exist_ok=True)
    kinds = [*KINDS, *by_criu(progress)]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="up-", dir=OUT))
        floor = stack.enter_context(floors.under(subject, server))
        gateways = {kind: stack.enter_context(started(server, subject, folder, kind)) for kind in kinds}
        for turn in range(turns):
            for name, contender in (("floor", floor), ("fresh", server)):
                progress(contender.label, turn, turns)
                start = cold_start(contender)
                good = start.response is not None and contender.check(start.response) is None
                wrong += not good
                found[name] += [start.total_ms] if good else []
            for kind, gateway in gateways.items():
                progress(f"up --start {kind}", turn, turns)
                with gateway.connect() as client:
                    found[f"{kind} zero"].append(_ask(client, sent, server))
                    (instance,) = gateway.control("GET", "status")["functions"][gateway.name]["instances"]
                    with connect(
                        instance["port"], deadline=time.monotonic() + 5, alive=lambda: True
                    ) as direct:
                        for _ in range(2):  # in turns, against drift
                            found["direct"] += [_ask(direct, sent, server) for _ in range(BLOCK // 2)]
                            found["through"] += [_ask(client, sent, server) for _ in range(BLOCK // 2)]
                gateway.to_zero()
                burst = _burst(gateway, sent, server)
                found[f"{kind} burst"].append(sorted(burst)[round(0.99 * (BURST - 1))])
                gateway.to_zero()
        for kind, gateway in gateways.items():
            told_of = gateway.control("GET", "status")["functions"][gateway.name]
            outcomes = told_of["outcomes"]
            wrong += told_of["start"] != kind
            missing += abs(outcomes["ok"] - 1 - turns * (1 + BLOCK + BURST))
    return _told(subject.manifest.name, kinds, found, missing, wrong)


def by_criu(progress: Progress) -> list[str]:
    """The kind ``criu``, where that can be."""
    try:
        criu.check(criu.find(os.environ))
    except criu.CriuError as error:
        progress(f"no instances by CRIU: {error}", 0, 1)
        return []
    return ["criu"]


def _told(name: str, kinds: list[str], found: dict[str, list[float]], missing: int, wrong: int) -> Benchmark:
    lines = {"fresh": Line("a plain fresh start", found["fresh"]), "floor": Line("the floor", found["floor"])}
    for kind in kinds:
        lines[f"{kind} zero"] = Line(f"{kind}: from zero, through the gateway", found[f"{kind} zero"])
        lines[f"{kind} burst"] = Line(f"{kind}: a burst of {BURST}, its p99", found[f"{kind} burst"])
    lines["direct"] = Line("warm, the instance itself", found["direct"])
    lines["through"] = Line("warm, through the gateway", found["through"])
    fresh = lines["fresh"].median
    added = lines["through"].median - lines["direct"].median
    claims = [
        Claim(f"{kind}: a burst's p99 / fresh cold start", lines[f"{kind} burst"].median / fresh, 3.0, True)
        for kind in kinds
    ]
    if "criu" in kinds:
        claims.append(
            Claim("criu: from zero / floor", lines["criu zero"].median / lines["floor"].median, 0.4, True)
        )
    return Benchmark(
        f"{name} up on one machine, {MOST} instances at most",
        list(lines.values()),
        [
            *claims,
            Claim("fresh: from zero / fresh cold start", lines["fresh zero"].median / fresh, 1.2, True),
            Claim("fork: from zero / floor", lines["fork zero"].median / lines["floor"].median, 0.12, True),
            Claim("what the gateway adds, at the median", added, 1.0, True, "ms"),
            Claim("answers missing or twice", missing, 0, True, "requests"),
        ],
        wrong,
    )


@contextlib.contextmanager
def started(server: Contender, subject: target.Target, folder: str, kind: str, *more: str) -> Iterator[Up]:
    """A gateway with one function, at zero; its instances share the fresh starts' cache. ``more``: its
    options."""
    port = free_port()
    command = [sys.executable, "-m", "preheat", "up", subject.location, "--max", str(MOST)]
    command += ["--start", kind, "--state", folder, *more]
    environ = {**server.environ, "PORT": str(port)}
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(command, env=environ, stdout=printed, stderr=printed)  # noqa: S603 - ours
        try:
            found = Up(port, subject.manifest.name, process)
            with found.connect() as client:  # what instances are made of is there, then
                client.sendall(request("GET", "/v2/health/live"))
                read_response(client, deadline=time.monotonic() + START_S)
            found.to_zero()
            yield found
        finally:
            stop(process)


def _ask(client: socket.socket, sent: bytes, server: Contender) -> float:
    """Milliseconds from before a request was sent to the end of its answer."""
    begin = time.perf_counter_ns()
    client.sendall(sent)
    response = read_response(client, deadline=time.monotonic() + START_S)
    took = (time.perf_counter_ns() - begin) / 1e6
    _check(response, server)
    return took


def _burst(gateway: Up, sent: bytes, server: Contender) -> list[float]:
    """Milliseconds of each of many requests that are sent at the same moment, on connections that are
    open."""
    ended: list[float] = []
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as looking:
        clients = [stack.enter_context(gateway.connect()) for _ in range(BURST)]
        begin = time.perf_counter_ns()
        for client in clients:
            client.sendall(sent)
            looking.register(client, selectors.EVENT_READ, client)
        while len(ended) < BURST:
            ready = looking.select(START_S)
            if not ready:
                raise EngineError(f"{BURST - len(ended)} requests of the burst have no answer")
            for key, _ in ready:  # an answer is sent in one piece
                response = read_response(key.data, deadline=time.monotonic() + 5)
                ended.append((time.perf_counter_ns() - begin) / 1e6)
                looking.unregister(key.fileobj)
                _check(response, server)
    return ended


def _check(response: Response, server: Contender) -> None:
    wrong = server.check(response)
    if wrong is not None:
        raise EngineError(f"an answer through the gateway is wrong: {wrong}")
