"""`preheat try`: start a target cold, ask it, print the answers and where the time went."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from .. import output
from ..errors import PreheatError, UsageError
from . import target as targets
from .client import Response, connect, free_port, read_response, request
from .start import START_S, ask_for_phases, last_words, spawn, stop

RAW = "application/octet-stream"


def tryout(location: str, paths: Sequence[str], *, report: str | None, as_json: bool) -> int:
    """Start a server in a fresh process, send it each file, print what it answers; gives the exit status.

    A file that holds JSON for a task that takes no raw bytes goes as JSON, any other as its bytes. Without
    files the request that the artifact recorded is sent. Raises UsageError for a file that cannot be read,
    PreheatError where the server does not start.
    """
    if report is not None:
        output.make_room(report, as_json=as_json)
    target = targets.find(location, os.environ)
    asked = [(path, _file(path, target)) for path in paths] or [("the recorded request", _sample(target))]
    contender = targets.server(target)
    port = free_port()
    began = time.perf_counter_ns()
    answers: list[tuple[str, Response]] = []
    with tempfile.TemporaryFile() as printed:
        process = spawn(contender, port, printed)
        try:
            deadline = time.monotonic() + START_S
            for name, (kind, body) in asked:
                with connect(port, deadline=deadline, alive=lambda: process.poll() is None) as client:
                    client.sendall(request("POST", "/predict", body, {"content-type": kind}))
                    response = read_response(client, deadline=deadline)
                if not answers:
                    ended = time.perf_counter_ns()
                answers.append((name, response))
            coldstart = ask_for_phases(port)
        except (OSError, ValueError) as error:
            stop(process)
            raise PreheatError(f"{error}; {last_words(process.returncode, printed)}") from None
        finally:
            stop(process)
        printed.seek(0)
        log = "".join(
            line for line in printed.read().decode(errors="replace").splitlines(True) if line[0] != "{"
        )
    if report is not None:
        from ..waterfall import page

        output.write(report, page(coldstart))
    _print(answers, coldstart, began, ended, as_json, aside=report == output.STDOUT)
    if any(response.status >= 500 for _, response in answers):
        sys.stderr.write(f"the server's log:\n{log}")
    if report is not None:
        output.wrote(report)
    return 0 if all(response.status == 200 for _, response in answers) else 1


def _file(path: str, target: targets.Target) -> tuple[str, bytes]:
    try:
        with open(path, "rb") as file:
            body = file.read()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    from ..tasks import built_in

    accepts = (target.task or built_in(target.manifest.task)).accepts
    if not accepts:
        return "application/json", body
    return accepts[0].replace("*", "octet-stream") if "*" in accepts[0] else accepts[0], body


def _sample(target: targets.Target) -> tuple[str, bytes]:
    if target.task is not None:
        raise UsageError("a function with a task of its own has no recorded request; name a file to send")
    if target.manifest.sample is None:
        raise UsageError(f"{target.artifact} has no recorded request; name a file to send")
    return "application/json", json.dumps(target.manifest.sample["request"]).encode()


def _print(
    answers: Sequence[tuple[str, Response]],
    coldstart: dict[str, Any],
    began: int,
    ended: int,
    as_json: bool,
    *,
    aside: bool,
) -> None:
    if as_json:
        document = {
            "answers": [
                {
                    "asked": name,
                    "status": response.status,
                    "start": response.headers.get("x-preheat-start"),
                    "body": _body(response),
                }
                for name, response in answers
            ],
            "first_answer_ms": round((ended - began) / 1e6, 3),
            "coldstart": coldstart,
        }
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    from rich.console import Console

    from .show import cold_start

    console = Console(stderr=aside)
    for name, response in answers:
        start = response.headers.get("x-preheat-start", response.headers.get("x-preheat-outcome", "-"))
        text = json.dumps(_body(response), ensure_ascii=False)
        shown = text if len(text) <= 300 else text[:300] + "…"
        console.print(f"{name}  [{start}]  {shown}", markup=False, highlight=False, soft_wrap=True)
    console.print(cold_start(coldstart, began, ended))


def _body(response: Response) -> Any:
    try:
        return json.loads(response.body)
    except ValueError:
        return response.body.decode("latin-1")
