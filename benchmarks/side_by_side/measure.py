"""The rounds: each contender in a fresh process, from its start through three loads to its memory."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from preheat.errors import EngineError, PreheatError, UsageError
from preheat.measure.client import Response, request
from preheat.measure.run import Progress
from preheat.measure.summary import rank
from preheat.measure.target import Target

from .. import load
from . import environments
from .contenders import Contender, environ_of, python_of
from .process import Server, ask, memory_mib, started

LEVELS = (1, 8, 32)
"""Connections, each of which sends its next request when the last one was answered."""
WARM_S = 1.0
"""At the highest level, not counted."""
SAME = 0.9999
"""The least cosine between a contender's embedding and the one that the build recorded, or Preheat's."""
_SENTENCES = (
    "A cold start begins before the first line of your own code runs.",
    "What the image, the imports, the download, the session and the first run each take is seldom known.",
    "Weights that lie packed in a file of their own are mapped, not read.",
    "The invoice arrived twice, and the second one carried another date.",
    "Nobody waits for a report that is never late.",
    "Rain is expected in the north by the evening, with winds from the sea.",
    "She asked whether the ferry still ran in winter.",
    "Retries without a key are how one order becomes two.",
)
TEXTS = tuple(
    " ".join(_SENTENCES[(start + offset) % len(_SENTENCES)] for offset in range(length))
    for length in (1, 2, 4)
    for start in range(len(_SENTENCES))
)
"""Under load they are sent in turn: one to four sentences, 8 to 60 words."""


class Setup(NamedTuple):
    subject: Target
    rounds: int
    seconds: float
    """Of each load."""
    minutes: float
    """No round is begun that would end after so many."""
    server_cpus: Sequence[int]
    client_cpus: Sequence[int]

    @property
    def threads(self) -> int:
        """Intra-op threads that each session is given."""
        return len(self.server_cpus)


class Level(NamedTuple):
    """One load."""

    rate: float
    """Good answers a second."""
    p50_ms: float
    p99_ms: float
    failed: int


def run(contenders: Sequence[Contender], setup: Setup, progress: Progress) -> dict[str, Any]:
    """What each contender did, Preheat first, as plain JSON: ``rows`` with every round's samples,
    ``left_out`` with the reason of each that could not be started or answered wrongly, ``rounds`` and
    ``minutes``. Raises UsageError where Preheat fails.
    """
    begin = time.monotonic()
    ours, rows, left_out = _rehearsed(contenders, setup, progress)
    taking_part = [contender for contender in contenders if contender.name in rows]
    done, longest = 0, 0.0
    while done < setup.rounds and time.monotonic() - begin + longest <= 60 * setup.minutes:
        turn_begin = time.monotonic()
        for offset in range(len(taking_part)):
            contender = taking_part[(done + offset) % len(taking_part)]
            progress(contender.label, done * len(taking_part) + offset, setup.rounds * len(taking_part))
            try:
                _measured(contender, setup, ours, rows[contender.name])
            except (PreheatError, OSError, subprocess.SubprocessError) as error:
                rows[contender.name]["wrong"].append(f"round {done + 1}: {error}")
        done += 1
        longest = max(longest, time.monotonic() - turn_begin)
    minutes = round((time.monotonic() - begin) / 60, 1)
    return {"rows": [*rows.values()], "left_out": left_out, "rounds": done, "minutes": minutes}


def _rehearsed(
    contenders: Sequence[Contender], setup: Setup, progress: Progress
) -> tuple[Sequence[Any], dict[str, dict[str, Any]], list[dict[str, str]]]:
    """Each started once, not counted: that start writes the bytecode which a deployed image has. Its answers
    are held against the recorded one and Preheat's. Gives Preheat's, and an empty row for each that is right.
    """
    ours: Sequence[Any] = []
    rows: dict[str, dict[str, Any]] = {}
    left_out: list[dict[str, str]] = []
    for index, contender in enumerate(contenders):
        progress(f"{contender.label}, not counted", index, len(contenders))
        try:
            with _serving(contender, setup) as server:
                _expect(contender, server.first, _recorded(setup.subject))
                found = _embeddings(contender, server)
            ours = ours or found
            if (apart := _apart(found, ours)) is not None:
                raise EngineError(apart)
        except (PreheatError, OSError) as error:
            if not rows:
                raise UsageError(f"{contender.label} cannot be measured: {error}") from None
            left_out.append({"label": contender.label, "why": str(error)})
            continue
        rows[contender.name] = {
            "label": contender.label,
            "ours": not contender.environment,
            "joins": contender.joins,
            "versions": environments.versions(contender),
            "first_ms": [],
            "memory_mib": [],
            "levels": {},
            "wrong": [],
        }
    return ours, rows, left_out


def _measured(contender: Contender, setup: Setup, ours: Sequence[Any], row: dict[str, Any]) -> None:
    """One round of one contender; nothing of it counts where an answer is wrong or missing."""
    with _serving(contender, setup) as server:
        _under(contender, setup, server, LEVELS[-1], WARM_S)
        levels = {n: level(*_under(contender, setup, server, n, setup.seconds)) for n in LEVELS}
        memory = memory_mib(server.process.pid)
        found = _embeddings(contender, server)
    _expect(contender, server.first, _recorded(setup.subject))
    if (apart := _apart(found, ours)) is not None:
        raise EngineError(apart)
    if failed := sum(one.failed for one in levels.values()):
        raise EngineError(f"{failed} requests under load were not answered with 200")
    row["first_ms"].append(server.first_ms)
    row["memory_mib"].append(memory)
    for connections, one in levels.items():
        row["levels"].setdefault(str(connections), []).append(one._asdict())


def _serving(contender: Contender, setup: Setup) -> Any:
    python = python_of(contender, environments.ENVIRONMENTS)
    environ = environ_of(contender, setup.subject, python, setup.threads)
    return started(
        [str(python), *contender.command],
        environ,
        contender.files,
        setup.server_cpus,
        request(
            "POST",
            contender.path,
            _body(contender, _sample(setup.subject)),
            {"content-type": "application/json"},
        ),
    )


def _under(
    contender: Contender, setup: Setup, server: Server, connections: int, seconds: float
) -> tuple[Sequence[load.Seen], float]:
    """What one load saw, and the moment at which it ended."""
    begin = time.monotonic() + 0.5
    end = begin + seconds
    (seen,) = load.run(
        load.Plan(
            server.port,
            [load.post(contender.path, contender.body(text)) for text in TEXTS],
            begin,
            end,
            connections,
            cpus=setup.client_cpus,
        )
    )
    return seen.seen, end


def level(seen: Sequence[load.Seen], end: float) -> Level:
    """What came of a load that ended at ``end``. Those under way then are waited for, and count for latency,
    but not as answers of its time, which begins with the first request. Raises EngineError for no good answer
    in it."""
    good = [one for one in seen if one.status == 200]
    in_time = [one for one in good if one.at + one.ms / 1e3 <= end]
    if not in_time:
        raise EngineError(f"of {len(seen)} requests under load none was answered with 200 in time")
    took = sorted(one.ms for one in good)
    return Level(
        len(in_time) / (end - min(one.at for one in seen)),
        took[rank(len(took), 0.5) - 1],
        took[rank(len(took), 0.99) - 1],
        len(seen) - len(good),
    )


def _embeddings(contender: Contender, server: Server) -> list[Any]:
    """Of every text, asked for by as many as the highest level has: what joins requests joins these."""
    with ThreadPoolExecutor(LEVELS[-1]) as pool:
        answers = [*pool.map(lambda text: ask(server, contender.path, _body(contender, text)), TEXTS)]
    return [_vector(contender, answer) for answer in answers]


def _vector(contender: Contender, response: Response) -> Any:
    """FP32 [dimensions]. Raises EngineError for an answer that holds none."""
    try:
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        return np.array(contender.answer(json.loads(response.body)), dtype=np.float32).reshape(-1)
    except (ValueError, LookupError, TypeError) as error:
        raise EngineError(f"no embedding came but {response.body[:200]!r}: {error}") from None


def _expect(contender: Contender, response: Response, wanted: Any) -> None:
    if (apart := _apart([_vector(contender, response)], [wanted])) is not None:
        raise EngineError(f"the first answer is wrong: {apart}")


def _apart(found: Sequence[Any], wanted: Sequence[Any]) -> str | None:
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if one.shape != other.shape:
            return f"embedding {index} has the shape {one.shape}, not {other.shape}"
        cosine = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
        if not cosine >= SAME:
            return f"the cosine between embedding {index} and the right one is {cosine:.6f}, below {SAME}"
    return None


def _body(contender: Contender, text: str) -> bytes:
    return json.dumps(contender.body(text)).encode()


def _sample(subject: Target) -> str:
    assert subject.manifest.sample is not None  # noqa: S101 - text embedding has one
    return str(subject.manifest.sample["request"]["input"])


def _recorded(subject: Target) -> Any:
    assert subject.manifest.sample is not None  # noqa: S101 - text embedding has one
    return np.array(subject.manifest.sample["answer"]["embeddings"][0], dtype=np.float32)
