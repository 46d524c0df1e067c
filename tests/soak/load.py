"""What is sent: a mixture of good, bad, large, keyed and deferred requests, of two tenants to two functions.

A client never gives up on a request with a key before it has an answer, as clients with keys do; each answer
that it got is kept by its digest, and held against what it is told when it asks again.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from http.client import HTTPException
from typing import NamedTuple

from preheat.measure.summary import rank

from ..conftest import Answer
from ..functional.local.conftest import Up

TENANTS = {"acme": "of-acme", "beta": "of-beta"}
"""Who asks, by the key that each sends."""
FUNCTIONS = ("filetype", "embed")
OWN_TIME_S = 20.0
"""PREHEAT_TIMEOUT: the gateway has answered by then, whatever became of an instance."""
STUCK_S = OWN_TIME_S + 8.0
"""A request that takes longer is stuck."""
SETTLED_S = 90.0
"""Tries again and again, a request with a key has an answer by then."""
LARGE_BYTES = 12 * 1024 * 1024
TOO_LARGE_BYTES = 17 * 1024 * 1024
"""The functions take 16 MiB."""
KILLED = frozenset({502, 503, 504})
"""What a request may get where the process that has it is killed, or none has started again yet."""
KINDS = {"plain": 40, "keyed": 20, "twice": 3, "again": 12, "deferred": 8, "bad": 14, "large": 3}
"""How often each is sent."""


class Kept(NamedTuple):
    """A request whose answer must not be lost."""

    function: str
    path: str
    body: bytes
    headers: dict[str, str]
    place: str
    """Where the answer of a deferred request is asked for; empty for others."""
    digest: str


class Load:
    """What ``clients`` threads send to a gateway until ``stop``; ``pause_s``: between two requests of one."""

    def __init__(self, gateway: Up, *, clients: int, pause_s: float, seed: int) -> None:
        self.kept: list[Kept] = []
        self.statuses: dict[str, Counter[str]] = defaultdict(Counter)
        self.latencies: dict[str, list[float]] = defaultdict(list)
        """Seconds, by kind."""
        self.wrong: list[str] = []
        """What must not happen, in words."""
        self._gateway = gateway
        self._pause_s = pause_s
        self._seed = seed
        self._lock = threading.Lock()
        self._bads = itertools.cycle(range(6))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every client end what it has begun."""
        self._stop.set()
        for thread in self._threads:
            thread.join(SETTLED_S + 2 * STUCK_S)
            if thread.is_alive():
                self._tell(f"stuck: a client did not end: {thread.name}")

    def replay(self, threads: int) -> int:
        """Ask for every answer once more; how many came, byte for byte."""
        left = iter(list(self.kept))
        came = Counter[bool]()

        def ask() -> None:
            while True:
                with self._lock:
                    one = next(left, None)
                if one is None:
                    return
                good = self._ask_again("replay", one, strictly=True)
                with self._lock:
                    came[good] += 1

        workers = [threading.Thread(target=ask, daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return came[True]

    def _send(self, number: int) -> None:
        chance = random.Random(f"{self._seed}-{number}")
        kinds, weights = list(KINDS), list(KINDS.values())
        while not self._stop.is_set():
            (kind,) = chance.choices(kinds, weights)
            try:
                getattr(self, f"_{kind}")(chance)
            except Exception as error:  # a client that ends would hide what it found
                self._tell(f"{kind}: {type(error).__name__}: {error}")
            self._stop.wait(chance.expovariate(1 / self._pause_s))

    # The kinds.

    def _plain(self, chance: random.Random) -> None:
        function, path, body, headers = self._good(chance)
        self._held("plain", self._ask("plain", function, path, body, headers), {200})

    def _keyed(self, chance: random.Random) -> None:
        request = self._good(chance)
        request[3]["idempotency-key"] = f"k-{chance.getrandbits(96):x}"
        answer = self._until_answered("keyed", *request)
        if answer is not None:
            self._keep(Kept(*request, "", _digest(answer)))

    def _twice(self, chance: random.Random) -> None:
        """One key from two clients at once: one outcome."""
        request = self._good(chance)
        request[3].update({"idempotency-key": f"t-{chance.getrandbits(96):x}", "prefer": "wait=10"})
        answers: list[Answer | None] = []
        other = threading.Thread(target=lambda: answers.append(self._until_answered("twice", *request)))
        other.start()
        answers.append(self._until_answered("twice", *request))
        other.join()
        digests = {_digest(one) for one in answers if one is not None}
        if len(digests) > 1:
            self._tell(f"twice: one key, two outcomes: {request[3]['idempotency-key']}")
        for digest in digests:
            self._keep(Kept(*request, "", digest))

    def _again(self, chance: random.Random) -> None:
        """Something from earlier, while instances are killed."""
        with self._lock:
            one = chance.choice(self.kept) if self.kept else None
        if one is not None:
            self._ask_again("again", one, strictly=False)

    def _deferred(self, chance: random.Random) -> None:
        function, path, body, headers = self._good(chance)
        headers.update({"prefer": "respond-async", "idempotency-key": f"d-{chance.getrandbits(96):x}"})
        accepted = self._until_answered("deferred", function, path, body, headers)
        if accepted is None:
            return
        if accepted.status == 200:  # a try before this one had done it
            del headers["prefer"]
            self._keep(Kept(function, path, body, headers, "", _digest(accepted)))
            return
        place = accepted.headers["location"]
        until = time.monotonic() + SETTLED_S
        while time.monotonic() < until:
            answer = self._ask("deferred", function, place, None, headers, method="GET")
            if answer is not None and answer.status == 200:
                self._keep(Kept(function, place, b"", headers, place, _digest(answer)))
                return
            self._held("deferred", answer, {200, 202})
            time.sleep(0.1)
        self._tell(f"deferred: no outcome after {SETTLED_S:.0f} s: {place}")

    def _bad(self, chance: random.Random) -> None:
        function, path, body, headers = self._good(chance)
        with self._lock:
            how = next(self._bads)
        if how == 0:
            body, headers["content-type"], wanted = b'{"broken', "application/json", {400, 422}
        elif how == 1:
            path, wanted = "/v2/models/nobody/infer", {404}
        elif how == 2:
            headers["x-api-key"], wanted = "of-nobody", {401}
        elif how == 3:
            headers["content-type"], wanted = "text/nonsense", {415}
        elif how == 4:
            headers["idempotency-key"], wanted = "", {400}
        else:
            body, headers["content-type"], wanted = b"[" * 5000, "application/json", {400, 422}
        self._held("bad", self._ask("bad", function, path, body, headers), wanted)

    def _large(self, chance: random.Random) -> None:
        size, wanted = (LARGE_BYTES, 200) if chance.random() < 0.7 else (TOO_LARGE_BYTES, 413)
        headers = {"x-api-key": _key(chance), "content-type": "application/octet-stream"}
        answer = self._ask("large", "filetype", "/predict", chance.randbytes(1024) * (size // 1024), headers)
        self._held("large", answer, {wanted})

    # What they are made of.

    def _good(self, chance: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
        """function, path, body and headers of a request that gets an answer."""
        headers = {"x-api-key": _key(chance), "content-type": "application/json"}
        function = chance.choice(FUNCTIONS)
        if function == "embed":
            words = " ".join(chance.choice(WORDS) for _ in range(chance.randrange(2, 24)))
            return (
                function,
                "/v1/embeddings",
                json.dumps({"input": words, "model": "embed"}).encode(),
                headers,
            )
        content = base64.b64encode(chance.randbytes(chance.randrange(16, 4096))).decode()
        return function, "/predict", json.dumps({"content": content}).encode(), headers

    def _ask(
        self,
        kind: str,
        function: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        method: str = "POST",
    ) -> Answer | None:
        """One request, counted; None, and told, where it was stuck or its connection broke."""
        place = path if path.startswith(f"/{function}/") else f"/{function}{path}"
        began = time.monotonic()
        answer, status = None, ""
        try:
            answer = self._gateway.request(method, place, body, headers)
            status = str(answer.status)
            if answer.status >= 500:
                status += f" {answer.json()['code']}"  # an answer without one is a defect
        except TimeoutError:
            status = "stuck"
        except (OSError, ValueError, KeyError, HTTPException) as error:
            answer, status = None, type(error).__name__
        took = time.monotonic() - began
        with self._lock:
            self.statuses[kind][status] += 1
            self.latencies[kind].append(took)
        if took > STUCK_S or answer is None:
            self._tell(f"{kind}: no answer: {method} {place}: {status} after {took:.1f} s")
        return answer

    def _until_answered(
        self, kind: str, function: str, path: str, body: bytes, headers: dict[str, str]
    ) -> Answer | None:
        """Ask until there is an outcome, as a client with a key does. None, and told, where none comes."""
        until = time.monotonic() + SETTLED_S
        while time.monotonic() < until:
            answer = self._ask(kind, function, path, body, headers)
            if answer is not None and answer.status in (200, 202):
                return answer
            self._held(kind, answer, {200, 202, 409})
            time.sleep(0.2)
        self._tell(f"{kind}: no outcome after {SETTLED_S:.0f} s: {headers['idempotency-key']}")
        return None

    def _ask_again(self, kind: str, one: Kept, *, strictly: bool) -> bool:
        """Whether a kept answer comes once more. ``strictly``: nothing is killed now, so nothing else may."""
        method, path, body = ("GET", one.place, None) if one.place else ("POST", one.path, one.body)
        answer = self._ask(kind, one.function, path, body, one.headers, method)
        if answer is None or (not strictly and answer.status in KILLED):
            return False
        name = one.headers["idempotency-key"]
        if answer.status != 200:
            self._tell(f"{kind}: lost: {name}: {answer.status} {answer.body[:200]!r}")
        elif answer.headers.get("x-preheat-replayed") != "true":
            self._tell(f"{kind}: run again, not replayed: {name}")
        elif _digest(answer) != one.digest:
            self._tell(f"{kind}: another outcome: {name}")
        else:
            return True
        return False

    def _keep(self, one: Kept) -> None:
        with self._lock:
            self.kept.append(one)

    def _held(self, kind: str, answer: Answer | None, wanted: set[int]) -> None:
        if answer is not None and answer.status not in wanted | KILLED:
            self._tell(f"{kind}: {answer.status}, not {sorted(wanted)}: {answer.body[:200]!r}")

    def _tell(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what)


WORDS = ("a cold start waits", "for what", "an earlier build", "could have done", "and a warm one")


def _key(chance: random.Random) -> str:
    return chance.choice(list(TENANTS.values()))


def _digest(answer: Answer) -> str:
    """Of the bytes, and of what says how they are read."""
    head = f"{answer.status} {answer.headers.get('content-type')} ".encode()
    return hashlib.sha256(head + answer.body).hexdigest()


def ranks(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in milliseconds."""
    ordered = sorted(seconds)
    at = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0} if ordered else {}
    return {name: round(1000 * ordered[rank(len(ordered), share) - 1], 1) for name, share in at.items()}
