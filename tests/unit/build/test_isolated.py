from __future__ import annotations

import os
from pathlib import Path

import pytest

from preheat.build import isolated
from preheat.errors import BuildError, DriftError, SourceError

WORKER = """
import ctypes, os, signal, sys, time
from preheat.errors import DriftError, PreheatError

def main(request):
    print("noise on stdout", flush=True)
    os.write(1, b"more noise\\n")
    what = request["what"]
    if what == "answer":
        return {"pid": os.getpid(), "offline": os.environ["HF_HUB_OFFLINE"], "path": sys.path[0]}
    if what == "drift":
        raise DriftError("too far")
    if what == "slug":
        raise PreheatError("own code", code="something_else")
    if what == "crash":
        ctypes.string_at(0)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        sys.stderr.write("the last words\\n")
        os._exit(7)
    if what == "bug":
        raise ValueError("what went wrong")
    if what == "sleep":
        time.sleep(60)
"""


@pytest.fixture(autouse=True)
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_worker.py").write_text(WORKER)
    path = os.pathsep.join(part for part in (str(tmp_path), os.environ.get("PYTHONPATH", "")) if part)
    monkeypatch.setenv("PYTHONPATH", path)


def ask(what: str, timeout: float = 60) -> dict[str, object]:
    return isolated.call("a_worker", {"what": what}, timeout=timeout)


def test_an_answer_comes_from_another_process_offline() -> None:
    answer = ask("answer")
    assert answer["pid"] != os.getpid()
    assert answer["offline"] == "1"
    assert answer["path"] != "", "the working folder is not searched for modules"


def test_our_own_errors_are_raised_again() -> None:
    with pytest.raises(DriftError, match="too far"):
        ask("drift")
    with pytest.raises(BuildError, match="own code") as raised:
        ask("slug")
    assert raised.value.code == "something_else"
    assert isolated._error_class("source") is SourceError


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("crash", "ended by SIGSEGV"),
        ("killed", "ended by SIGKILL .out of memory"),
        ("exit", "the last words"),
        ("bug", "ValueError: what went wrong"),
    ],
)
def test_a_crash_says_how_it_ended(what: str, said: str) -> None:
    with pytest.raises(isolated.CrashError, match=said):
        ask(what)


def test_time_runs_out() -> None:
    with pytest.raises(isolated.CrashError, match="took more than 1 s"):
        ask("sleep", timeout=1)
