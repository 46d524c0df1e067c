"""A worker: serves clients over a Unix socket, a line a request, and runs keys by its engine."""

from __future__ import annotations

import datetime
import json
import os
import random
import signal
import socket
import threading
import time
import traceback
from pathlib import Path

from preheat.errors import InProgressError, LedgerError, UnprocessableError

from . import engines
from .history import Kind, Recorder, digest
from .plan import SKEWS_S, Lapse, Plan, Step

OWN_PAYLOAD = "fingerprint"
"""The payload that every client asks with; any other must be refused."""


class WorkError(Exception):
    """What the work of a key raises."""


class Worker:
    def __init__(self, plan: Plan, slot: int, generation: int) -> None:
        self.plan = plan
        self.recorder = Recorder(plan.folder, f"w{slot}.{generation}")
        self.steps = engines.Steps(plan, self.recorder)
        self.engine = engines.make(plan.config, self.steps)
        self.path = address(plan, slot)

    def serve(self) -> None:
        """Until the process is killed."""
        self.path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path))
            listener.listen(64)
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                asked = json.loads(line)
                try:
                    answer = self._answer(asked["key"], asked["fingerprint"], asked["wait"])
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)  # a defect, which ends the run
                self.steps.reach(Step.BEFORE_RESPONSE, asked["key"])
                try:
                    connection.sendall(json.dumps(answer).encode() + b"\n")
                except OSError:
                    return  # the client gave up

    def _answer(self, key: str, fingerprint: str, wait: float) -> dict[str, str | float]:
        try:
            outcome = self.engine.run(key, fingerprint, lambda: self._work(key), wait=wait)
        except InProgressError as error:
            return {"status": "in progress", "retry_after": error.retry_after or 0}
        except UnprocessableError as error:
            return {"status": error.code}
        except LedgerError as error:
            return {"status": "down", "error": str(error)}
        except WorkError:
            return {"status": "failed"}
        return {"status": "done", "outcome": outcome.decode()}

    def _work(self, key: str) -> bytes:
        """An execution. Its outcome is its own: no other has it."""
        chance = random.Random(os.urandom(8))
        fate, lease = self.plan.fates.get(key), self.plan.config.lease
        outcome = f"{key} {os.urandom(12).hex()} ".encode()
        if chance.random() < 0.02:
            outcome += b"." * 20_000
        mine, fence = digest(outcome), self.steps.fence
        self.recorder(Kind.STARTED, key, fence, mine)
        time.sleep(chance.uniform(0.001, 0.006))
        self.steps.reach(Step.RUNNING, key)
        fails = False
        if fate is not None:
            if fate.freeze and self.plan.once(f"{key} freezes"):
                self.recorder(Kind.FROZEN, key, value=self.recorder.who)
                os.kill(os.getpid(), signal.SIGSTOP)
            # Where an engine has no fence to stall, its leases are never renewed anyway.
            stalled = fence in self.steps.stalled if fence else self.plan.once(f"{key} stalls")
            if fate.lapse and stalled:
                time.sleep(lease * chance.uniform(1.25, 1.5))
                self.steps.stalled.discard(fence)
                time.sleep(lease * 0.45)
                fails = fate.lapse is Lapse.RAISES
            elif fate.long:
                time.sleep(lease * 1.6)
            fails = fails or self.plan.fails(key)
        if fails:
            self.recorder(Kind.RAISED, key, fence, mine)
            raise WorkError(key)
        self.recorder(Kind.ENDED, key, fence, mine)
        return outcome


def address(plan: Plan, slot: int) -> Path:
    return plan.folder / f"worker-{slot}"


def run(plan: Plan, slot: int, generation: int) -> None:
    """The life of a worker process, its wall clock set off."""
    if plan.config.skewed:
        import time_machine

        skew = datetime.timedelta(seconds=SKEWS_S[slot % len(SKEWS_S)])
        time_machine.travel(datetime.datetime.now(datetime.UTC) + skew, tick=True).start()
    Worker(plan, slot, generation).serve()
