"""A client: asks the workers for its keys, now with patience, now without, until each is acknowledged."""

from __future__ import annotations

import heapq
import json
import random
import socket
import threading
import time
from collections import deque

from .history import Kind, Recorder, digest
from .plan import CLIENT_THREADS, WORKERS, Plan
from .worker import OWN_PAYLOAD, address

ANSWER_S = 60.0
"""A worker's answer takes no longer, or the worker hangs, which fails the run."""


class Client:
    def __init__(self, plan: Plan, number: int) -> None:
        self.plan = plan
        self.record = Recorder(plan.folder, f"c{number}")
        self._lock = threading.Lock()
        self._fresh = deque(plan.asks[number])
        self._again: list[tuple[float, int, str]] = []
        """When to ask again, for the how manieth time, for what."""
        self._open = len(self._fresh)

    def run(self) -> bool:
        """Whether every key was acknowledged before the deadline."""
        deadline = time.monotonic() + self.plan.config.deadline
        threads = [threading.Thread(target=self._ask_all, args=(deadline,)) for _ in range(CLIENT_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._open == 0

    def _ask_all(self, deadline: float) -> None:
        connections = _Connections(self.plan)
        chance = random.Random()
        while time.monotonic() < deadline:
            with self._lock:
                if not self._open:
                    return
                now = time.monotonic()
                if self._again and self._again[0][0] <= now:
                    _, tries, key = heapq.heappop(self._again)
                elif self._fresh:
                    tries, key = 0, self._fresh.popleft()
                else:
                    tries, key = 0, ""
            if not key:
                time.sleep(0.005)
                continue
            wait = self.plan.config.lease if chance.random() < 0.3 else 0.0
            status, outcome = connections.ask(key, OWN_PAYLOAD, wait)
            if status == "done":
                self.record(Kind.ACKNOWLEDGED, key, value=digest(outcome))
                if chance.random() < 0.01 and not self.plan.config.engine.startswith("powertools-"):
                    self._ask_otherwise(connections, key)
                with self._lock:
                    self._open -= 1
            else:
                pause = min(0.02 * 1.6**tries, 0.2) * chance.uniform(0.7, 1.3)
                with self._lock:
                    heapq.heappush(self._again, (time.monotonic() + pause, tries + 1, key))

    def _ask_otherwise(self, connections: _Connections, key: str) -> None:
        """A key that has an outcome, asked for with another payload: nobody may answer that."""
        status, outcome = connections.ask(key, "another payload", 0.0)
        if status == "done":
            self.record(Kind.ANSWERED_OTHER, key, value=digest(outcome))


class _Connections:
    """One thread's connections, one to each worker as it is needed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._open: dict[int, socket.socket] = {}
        self._chance = random.Random()

    def ask(self, key: str, fingerprint: str, wait: float) -> tuple[str, bytes]:
        """status and outcome; ``gone`` where the worker died meanwhile."""
        slot = self._chance.randrange(WORKERS)
        try:
            connection = self._open.get(slot)
            if connection is None:
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(ANSWER_S)
                connection.connect(str(address(self._plan, slot)))
                self._open[slot] = connection
            connection.sendall(
                json.dumps({"key": key, "fingerprint": fingerprint, "wait": wait}).encode() + b"\n"
            )
            line = b""
            while not line.endswith(b"\n"):
                more = connection.recv(1 << 16)
                if not more:
                    raise ConnectionError
                line += more
        except (ConnectionError, FileNotFoundError):
            gone = self._open.pop(slot, None)
            if gone is not None:
                gone.close()
            return "gone", b""
        answer = json.loads(line)
        return answer["status"], answer.get("outcome", "").encode()
