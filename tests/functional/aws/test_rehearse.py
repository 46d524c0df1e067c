"""`preheat rehearse`: functions that are broken on purpose, each finding found by name; ours are clean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ...conftest import ROOT
from ..store.samples import succeeds
from ..store.servers import moto

START = "from preheat import Function, snapshot\nfunction = Function(__file__)\n"
END = "\nhandler = function.handler\n"


@pytest.fixture
def rehearse(tmp_path: Path, filetype_artifact: Path) -> Callable[..., Any]:
    """Rehearse a module's text around a function; gives its report."""

    def run(text: str, *, clones: int = 3, start: str = START, end: str = END, **environ: str) -> Any:
        app = tmp_path / "app.py"
        app.write_text(start + text + end)
        (tmp_path / "artifact").symlink_to(filetype_artifact)
        done = rehearsed(app, clones, **environ)
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)

    return run


def rehearsed(app: Path, clones: int, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREHEAT_", "AWS_"))}
    return subprocess.run(
        [sys.executable, "-m", "preheat", "rehearse", str(app), "--clones", str(clones), "--json"],
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def found(report: Any, kind: str) -> list[str]:
    return [finding["name"] for finding in report["findings"] if finding["kind"] == kind]


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("socket", "app.pair", "import socket\npair = socket.socketpair()\n"),
        (
            "socket",
            "app.listener",
            "import socket\nlistener = socket.create_server(('127.0.0.1', 0))\n",
        ),
        ("socket", "epoll", "import asyncio\nloop = asyncio.new_event_loop()\n"),
        ("client", "app.db", "import sqlite3\ndb = sqlite3.connect(':memory:')\n"),
        (
            "client",
            "app.api",
            "import http.client, os\n"
            "if address := os.environ.get('AWS_LAMBDA_RUNTIME_API'):\n"
            "    api = http.client.HTTPConnection(address)\n    api.connect()\n",
        ),
        (
            "thread",
            "poller",
            "import threading\nwait = threading.Event().wait\n"
            "threading.Thread(target=wait, name='poller', daemon=True).start()\n",
        ),
        (
            "lease",
            "held.lock",
            "import fcntl, tempfile\nlock = open(tempfile.gettempdir() + '/held.lock', 'w')\n"
            "fcntl.flock(lock, fcntl.LOCK_EX)\n",
        ),
        ("temp file", "/tmp", "import tempfile\nscratch = tempfile.TemporaryFile()\n"),
        ("seed", "app.dice", "import random\ndice = random.Random()\n"),
        ("seed", "app.noise", "import numpy\nnoise = numpy.random.default_rng()\n"),
        ("seed", "uuid.uuid1", "import uuid\nfirst = uuid.uuid1()\n"),
        ("id", "app.WORKER", "import uuid\nWORKER = uuid.uuid4()\n"),
        ("id", "app.TOKEN", "import secrets\nTOKEN = secrets.token_hex(16)\n"),
        ("clock", "app.STARTED", "import time\nSTARTED = time.time()\n"),
        ("clock", "app.state.since", "import time\nstate = {'since': time.monotonic()}\n"),
        (
            "credentials",
            "app.cached",
            "import json, os, urllib.request\n"
            "if url := os.environ.get('AWS_CONTAINER_CREDENTIALS_FULL_URI'):\n"
            "    cached = json.load(urllib.request.urlopen(url))\n",
        ),
        (
            "hook",
            "app.slow",
            "import time\n@snapshot.after\ndef slow():\n    time.sleep(30)\n",
        ),
        (
            "hook",
            "app.broken",
            "@snapshot.after\ndef broken():\n    raise RuntimeError('no client')\n",
        ),
        (
            "answer",
            "the session",
            "@snapshot.after\ndef another():\n"
            "    loaded = function.service.current\n"
            "    task = loaded.task\n"
            "    finish = task.finish\n"
            "    task.finish = lambda *a: {'predictions': []}\n",
        ),
    ],
    ids=lambda value: value if len(value) < 20 else None,
)
def test_what_a_snapshot_breaks_is_found_by_name(
    rehearse: Callable[..., Any], kind: str, name: str, text: str
) -> None:
    report = rehearse(text)
    names = found(report, kind)
    assert any(name in one for one in names), report["findings"]


def test_a_lease_of_the_ledger_is_found(rehearse: Callable[..., Any]) -> None:
    text = (
        "from preheat.idempotency import Idempotency\n"
        "from preheat.ledger import new_fence, open_ledger\n"
        "import tempfile\n"
        "held = Idempotency(open_ledger('sqlite:///' + tempfile.mkdtemp() + '/l.db'), lease=10, keep=60)\n"
        "fence = new_fence()\nheld.claim('job-7', 'f', fence)\nheld.hold('job-7', fence)\n"
    )
    report = rehearse(text)
    assert "the ledger's key job-7" in found(report, "lease")
    assert "preheat-leases" in found(report, "thread")


def test_seeds_that_nobody_renews_are_found(rehearse: Callable[..., Any]) -> None:
    """Without Preheat's own hooks: the generators that all modules share."""
    text = (
        "import random, numpy.random\nfrom preheat.snapshot import builtin\nbuiltin.reseed = lambda: None\n"
    )
    names = found(rehearse(text), "seed")
    assert any(name.startswith("random._inst") for name in names)
    assert any(name.startswith("numpy.random.mtrand._rand") for name in names)


def test_the_instances_id_is_found_where_it_repeats(rehearse: Callable[..., Any]) -> None:
    text = "from preheat.snapshot import builtin\nbuiltin.Renewal.renew_instance = lambda self: None\n"
    assert "the instance's id" in found(rehearse(text), "id")


def test_what_was_meant_to_be_the_same_is_not_found(rehearse: Callable[..., Any]) -> None:
    text = (
        "import random, time, uuid\n"
        "dice = random.Random(7)\nNAMESPACE = uuid.UUID(int=7)\nDIGEST = 'ab' * 32\nEPOCH = 1_700_000_000.0\n"
        "strong = random.SystemRandom()\n"
    )
    assert rehearse(text)["findings"] == []


def test_hooks_repair_what_they_are_for_and_run_in_lambdas_order(rehearse: Callable[..., Any]) -> None:
    text = (
        "import os, random, socket, threading, time, uuid\n"
        "order = []\n"
        "WORKER = uuid.uuid4()\nSTARTED = time.time()\ndice = random.Random()\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "@snapshot.before\ndef first():\n    order.append('first')\n"
        "@snapshot.before\ndef second():\n"
        "    assert order == []\n    order.append('second')\n    listener.close()\n"
        "@snapshot.after\ndef renew():\n"
        "    global WORKER, STARTED\n"
        "    assert order == ['second', 'first']\n"
        "    WORKER, STARTED = uuid.uuid4(), time.time()\n    dice.seed(os.urandom(32))\n"
    )
    report = rehearse(text)
    assert report["findings"] == []
    before = [hook["name"].rpartition(".")[2] for hook in report["before"]]
    assert before == ["close_clients", "second", "first"] or before[-2:] == ["second", "first"]
    assert "app.renew" in [hook["name"] for hook in report["after"]]
    assert report["restore_ms"]["median"] <= report["first_answer_ms"]["median"]


def test_a_before_hook_that_fails_is_told(tmp_path: Path, filetype_artifact: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(START + "@snapshot.before\ndef early():\n    raise RuntimeError('still busy')\n" + END)
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    done = rehearsed(app, 2)
    assert done.returncode == 1
    assert "still busy" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("handler = 7 / 0\n", 2, "division"),
        ("from preheat import Function\nf = Function(__file__)\n", 1, "handler"),
    ],
)
def test_a_function_that_does_not_start_says_why(
    tmp_path: Path, filetype_artifact: Path, text: str, status: int, said: str
) -> None:
    app = tmp_path / "app.py"
    app.write_text(text)
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    done = rehearsed(app, 2)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_an_artifact_that_was_fetched_before_the_snapshot_leaves_no_client(
    filetype_artifact: Path, tmp_path: Path
) -> None:
    with moto() as store:
        place = f"{store.at(tmp_path.name)}/filetype"
        succeeds(store.environ, "publish", filetype_artifact, place, "--alias", "prod")
        environ = {"PREHEAT_ARTIFACT": f"{place}@prod", "PREHEAT_CACHE": str(tmp_path), **store.environ}
        done = rehearsed(ROOT / "functions" / "filetype" / "app.py", 5, **environ)
    assert (done.returncode, json.loads(done.stdout)["findings"]) == (0, [])


@pytest.mark.parametrize("name", ["filetype", "embed"])
def test_ours_are_clean_over_two_hundred_clones(name: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(f"{name}_artifact")
    done = rehearsed(ROOT / "functions" / name / "app.py", 200)
    report = json.loads(done.stdout)
    assert report["findings"] == []
    assert (done.returncode, report["clones"], len(report["samples"])) == (0, 200, 200)
