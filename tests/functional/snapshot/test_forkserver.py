"""Instances by fork: what they answer, how they end, and what they outlive."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preheat.errors import FailedStartError
from preheat.measure.client import read_response
from preheat.measure.start import pss_mib
from preheat.snapshot.forkserver import Template

from ...otlp import collecting
from .conftest import Instance, environ, spare_of, template_of, until_ended

SLOW_APP = """
import time
from preheat import Function
from preheat.tasks.filetype import FileType


class Slow(FileType):
    def prepare(self, request):
        if request == {"sleep": True}:
            time.sleep(1.5)
            request = {"content": "aGVsbG8gd29ybGQsIGhlbGxvIHdvcmxk"}
        return super().prepare(request)


function = Function(__file__, task=Slow)
"""


def app(folder: Path, artifact: Path, text: str) -> Path:
    (folder / "artifact").symlink_to(artifact)
    (folder / "app.py").write_text(text)
    return folder / "app.py"


def test_a_clone_answers_what_waited_in_the_backlog_as_a_restored_instance(
    filetype_template: Template,
) -> None:
    first, second = Instance(filetype_template), Instance(filetype_template)
    answers = [first.ask(), second.ask(), first.ask()]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [answer.headers["x-preheat-start"] for answer in answers] == ["restored", "restored", "warm"]
    assert json.loads(answers[0].body)["predictions"][0]["label"] == "python"
    ids = [answer.headers["x-preheat-instance"] for answer in answers]
    assert ids == [first.clone.instance, second.clone.instance, first.clone.instance]
    assert first.clone.instance != filetype_template.report["instance"]


def test_what_was_forked_ahead_is_the_next_clone_and_no_other(filetype_template: Template) -> None:
    spare = spare_of(filetype_template)
    assert filetype_template.running == []
    first, second = Instance(filetype_template), Instance(filetype_template)
    assert first.clone.pid == spare != second.clone.pid
    assert filetype_template.running == [first.clone.pid, second.clone.pid]
    assert [first.ask().headers["x-preheat-instance"], second.ask().headers["x-preheat-instance"]] == [
        first.clone.instance,
        second.clone.instance,
    ]
    assert [inherited(clone) for clone in (first, second)] == [False, False]
    another = spare_of(filetype_template)
    first.signal()
    second.signal(signal.SIGKILL)
    assert {ended.pid for ended in until_ended(filetype_template, 2)} == {first.clone.pid, second.clone.pid}
    assert Instance(filetype_template).clone.pid == another


def inherited(instance: Instance) -> bool:
    """Whether what a clone executes would get its listener too."""
    listener = f"socket:[{os.fstat(instance.listener.fileno()).st_ino}]"
    for found in Path(f"/proc/{instance.clone.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(found) == listener:
                information = (found.parent.parent / "fdinfo" / found.name).read_text()
                return not int(information.split("flags:")[1].split()[0], 8) & os.O_CLOEXEC
    raise AssertionError("it has no listener")


def test_a_spare_that_is_killed_is_nobodys_clone(filetype_template: Template) -> None:
    spare = spare_of(filetype_template)
    os.kill(spare, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{spare}").exists():
        assert time.monotonic() < deadline, "the template does not reap it"
        time.sleep(0.005)
    clone = Instance(filetype_template)
    assert clone.ask().status == 200
    assert filetype_template.ended() == []
    assert filetype_template.running == [clone.clone.pid]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_spare_ends_with_its_template(filetype_template: Template, number: int) -> None:
    clone = Instance(filetype_template)  # it must not keep the spare's socket
    assert clone.ask().status == 200
    spare = spare_of(filetype_template)
    os.kill(filetype_template.pid, number)
    deadline = time.monotonic() + 10
    while filetype_template.alive or (Path(f"/proc/{spare}").exists() and state_of(spare) != "Z"):
        assert filetype_template.ended() == []
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert filetype_template.running == [clone.clone.pid]
    assert clone.ask().status == 200
    clone.signal(signal.SIGKILL)


def state_of(pid: int) -> str:
    """Z for one that has ended and nobody has reaped."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def spare_app(folder: Path, artifact: Path, ahead: str) -> Path:
    """An app whose spare runs a line in place of its golden inference."""
    return app(
        folder,
        artifact,
        f"""
import os
import time
import preheat
from preheat import Function, warmup
from preheat.tasks.filetype import FileType

done = []
preheat.snapshot.before(lambda: done.append("before"))
preheat.snapshot.after(lambda: done.append("after"))
run = warmup.warm


def warm(*args, **more):
    if done == ["before"]:
        with open({str(folder / "spares")!r}, "a") as file:
            file.write("one\\n")
        {ahead}
    return run(*args, **more)


warmup.warm = warm
function = Function(__file__, task=FileType)
""",
    )


def until_begun(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while not (folder / "spares").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_spare_that_fails_is_the_last_one(filetype_artifact: Path, cache: Path, tmp_path: Path) -> None:
    with template_of(environ(spare_app(tmp_path, filetype_artifact, "os._exit(9)"), cache)) as template:
        template.wait_ready()
        until_begun(tmp_path)
        time.sleep(1.0)
        assert Instance(template).ask().status == 200
        assert template.ended() == []
        assert (tmp_path / "spares").read_text() == "one\n"


def test_a_spare_that_is_not_ready_is_not_waited_for(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    slow = spare_app(tmp_path, filetype_artifact, "time.sleep(60)")
    with template_of(environ(slow, cache)) as template:
        spare = spare_of(template, ready=False)
        until_begun(tmp_path)
        clone = Instance(template)
        assert clone.ask().status == 200
        assert clone.clone.pid != spare
        os.kill(template.pid, signal.SIGKILL)  # and it does not run on without its template
        deadline = time.monotonic() + 10
        while Path(f"/proc/{spare}").exists() and state_of(spare) != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert clone.ask().status == 200
        clone.signal(signal.SIGKILL)


def test_its_report_is_of_the_restore_alone(filetype_template: Template) -> None:
    clone = Instance(filetype_template)
    clone.ask()
    report = json.loads(clone.get("/coldstart").body)
    assert (report["kind"], report["restore"], report["instance"]) == (
        "restored",
        "fork",
        clone.clone.instance,
    )
    assert {phase["phase"] for phase in report["phases"]} == {"restore", "first_request"}
    assert report["origin_ns"] > filetype_template.report["origin_ns"]
    assert 0 < report["total_ms"] < 1000
    assert filetype_template.report["kind"] == "fresh"


def test_counters_begin_at_zero_in_a_clone(filetype_template: Template) -> None:
    clone = Instance(filetype_template)
    clone.ask()
    lines = clone.get("/metrics").body.decode().splitlines()
    counted = [line for line in lines if line.startswith("preheat_requests_total") and "/predict" in line]
    assert [line.rsplit(" ", 1)[1] for line in counted] == ["1.0"]


def test_each_clone_sends_its_own_spans(filetype_artifact: Path, cache: Path, tmp_path: Path) -> None:
    with collecting() as collector:
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with template_of(environ(filetype_artifact, cache, **otel), tmp_path / "log") as template:
            clones = [Instance(template), Instance(template)]
            assert [clone.ask().status for clone in clones] == [200, 200]
            requests = collector.named("POST /predict", count=3)  # the template's own answer is one
            ids = {span.resource["service.instance.id"] for span in requests}
            assert {clone.clone.instance for clone in clones} < ids
            assert len({span.span_id for span in requests}) == 3


def test_sigterm_drains_a_clone_and_its_end_is_told(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    with template_of(environ(app(tmp_path, filetype_artifact, SLOW_APP), cache)) as template:
        clone = Instance(template)
        with clone.send({"sleep": True}) as client:
            time.sleep(0.5)
            clone.signal()
            answer = read_response(client, deadline=time.monotonic() + 10)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        (ended,) = until_ended(template, 1)
        assert ended == (clone.clone.pid, 0)


def test_a_clone_killed_amid_a_request_is_told_and_the_others_go_on(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    with template_of(environ(app(tmp_path, filetype_artifact, SLOW_APP), cache)) as template:
        clone, other = Instance(template), Instance(template)
        with clone.send({"sleep": True}) as client:
            time.sleep(0.5)
            clone.signal(signal.SIGKILL)
            with pytest.raises(ConnectionError):
                read_response(client, deadline=time.monotonic() + 10)
        assert until_ended(template, 1) == [(clone.clone.pid, -signal.SIGKILL)]
        assert other.ask().status == 200
        assert Instance(template).ask().status == 200


def test_a_killed_templates_clones_go_on_and_come_to_the_subreaper(
    filetype_template: Template,
) -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    try:
        clones = [Instance(filetype_template) for _ in range(3)]
        assert clones[0].ask().status == 200
        os.kill(filetype_template.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while filetype_template.alive:
            assert time.monotonic() < deadline
            assert filetype_template.ended() == []
            time.sleep(0.005)
        assert filetype_template.status == -signal.SIGKILL
        assert [clone.ask().status for clone in clones] == [200, 200, 200]
        with pytest.raises(FailedStartError, match="ended"):
            filetype_template.clone(clones[0].listener)
        clones[0].signal()
        clones[1].signal(signal.SIGKILL)
        ended = until_ended(filetype_template, 2)
        assert sorted(ended) == sorted([(clones[0].clone.pid, 0), (clones[1].clone.pid, -signal.SIGKILL)])
        clones[2].signal(signal.SIGKILL)
        assert until_ended(filetype_template, 1) == [(clones[2].clone.pid, -signal.SIGKILL)]
    finally:
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


def test_close_ends_the_template_and_not_its_clones(filetype_template: Template) -> None:
    clone = Instance(filetype_template)
    filetype_template.close()
    assert filetype_template.status == 0
    assert clone.ask().status == 200
    clone.signal(signal.SIGKILL)


def test_a_start_that_fails_says_why(tmp_path: Path, cache: Path) -> None:
    nothing = environ(tmp_path / "nothing", cache)
    with (
        template_of(nothing, tmp_path / "log") as template,
        pytest.raises(FailedStartError, match="nothing"),
    ):
        template.wait_ready(30)
    assert "nothing" in str(template.failure)
    assert "error:" in (tmp_path / "log").read_text()


def test_a_template_that_keeps_a_thread_is_refused_by_name(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    text = (
        "import threading\nfrom preheat import Function\nfrom preheat.snapshot import template\n"
        "template.THREADS_S = 0.2\n"
        "threading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n"
        "function = Function(__file__)\n"
    )
    made = environ(app(tmp_path, filetype_artifact, text), cache)
    with template_of(made) as template, pytest.raises(FailedStartError, match=r"poller keeps 1 more.*after"):
        template.wait_ready(30)


def test_what_clones_may_not_differ_in_is_refused(filetype_template: Template) -> None:
    with pytest.raises(FailedStartError, match="PREHEAT_THREADS is the template's"):
        Instance(filetype_template, PREHEAT_THREADS="2")
    assert Instance(filetype_template).ask().status == 200


def test_a_cgroup_that_cannot_be_entered_ends_the_clone(filetype_template: Template) -> None:
    clone = Instance(filetype_template, PREHEAT_CGROUP="/nowhere")
    assert until_ended(filetype_template, 1) == [(clone.clone.pid, 2)]


def test_a_clone_enters_its_cgroup_first(filetype_template: Template, tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()  # the kernel takes 0 for the process that writes
    clone = Instance(filetype_template, PREHEAT_CGROUP=str(tmp_path))
    assert clone.ask().status == 200
    assert (tmp_path / "cgroup.procs").read_text() == "0"


def test_hooks_run_in_order_and_one_that_raises_ends_the_clone(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    text = (
        "import os, random\nfrom preheat import Function, snapshot\n"
        "from preheat.snapshot import builtin\n"
        f"log = os.open({str(tmp_path / 'order')!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "say = lambda text: os.write(log, text.encode() + b' ')\n"
        "function = Function(__file__)\n"
        "close, reseed = builtin.Renewal.close_clients, builtin.reseed\n"
        "builtin.reseed = lambda: (say('reseed'), reseed())\n"
        "snapshot.before(lambda: say('before1'))\nsnapshot.before(lambda: say('before2'))\n"
        "snapshot.after(lambda: say('after1:' + function.service.instance))\n"
        "snapshot.after(lambda: os.environ.get('BREAK') and 1 / 0)\n"
        "snapshot.after(lambda: say('after2'))\n"
    )
    log = tmp_path / "log"
    with template_of(environ(app(tmp_path, filetype_artifact, text), cache), log) as template:
        template.wait_ready()
        assert (tmp_path / "order").read_text().split() == ["before2", "before1"]
        clone = Instance(template)
        assert clone.ask().status == 200
        told = (tmp_path / "order").read_text().split()[2:]
        assert told == ["reseed", f"after1:{clone.clone.instance}", "after2"]
        broken = Instance(template, BREAK="yes")
        assert until_ended(template, 1) == [(broken.clone.pid, 1)]
        assert "ZeroDivisionError" in log.read_text()
        assert Instance(template).ask().status == 200


def test_a_session_of_two_threads_is_opened_in_the_clone_beside_its_first_answers(
    embed_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with template_of(environ(embed_artifact, cache, PREHEAT_THREADS="2"), log) as template:
        template.wait_ready()
        assert len(os.listdir(f"/proc/{template.pid}/task")) == 1
        clone = Instance(template)
        asked = {"input": "What is opened where?"}
        first = clone.ask(asked)
        deadline = time.monotonic() + 30
        while json.loads(clone.get("/coldstart").body)["threads"] != 2:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        second = clone.ask(asked)
        assert first.status == second.status == 200
        vectors = [json.loads(answer.body)["embeddings"][0] for answer in (first, second)]
        assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)
        clone.signal()
        assert until_ended(template, 1) == [(clone.clone.pid, 0)]


def test_a_clone_whose_session_drifts_ends(filetype_artifact: Path, cache: Path, tmp_path: Path) -> None:
    text = (
        "from preheat import Function, snapshot\n"
        "function = Function(__file__)\n\n\n@snapshot.after\ndef spoil():\n"
        "    engine = function.service.current.engine\n"
        "    infer = engine.infer\n"
        "    engine.infer = lambda *a: {name: array + 1 for name, array in infer(*a).items()}\n"
    )
    log = tmp_path / "log"
    with template_of(environ(app(tmp_path, filetype_artifact, text), cache), log) as template:
        clone = Instance(template)
        assert until_ended(template, 1) == [(clone.clone.pid, 1)]
        assert "drifts" in log.read_text()


def test_the_client_needs_no_models_library() -> None:
    script = (
        "import sys, preheat.snapshot.forkserver\n"
        "print([m for m in ('numpy', 'onnxruntime', 'asyncio', 'subprocess') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ten_clones_share_what_they_did_not_write(embed_artifact: Path, cache: Path, tmp_path: Path) -> None:
    """The first process to hold the model is the template, as long as it has no clone."""
    with template_of(environ(embed_artifact, cache), tmp_path / "log") as template:
        template.wait_ready()
        alone = pss_mib(template.pid)
        clones = [Instance(template) for _ in range(10)]
        for clone in clones:
            assert clone.ask({"input": "What is shared?"}).status == 200
        time.sleep(0.5)  # the golden inference of each is over
        tenth = pss_mib(clones[9].clone.pid)
        assert alone
        assert tenth
        assert tenth <= 0.25 * alone


def test_a_socket_that_does_not_listen_is_refused(filetype_template: Template) -> None:
    with socket.socket() as unbound, pytest.raises(FailedStartError, match="no TCP socket that listens"):
        filetype_template.clone(unbound)
    assert Instance(filetype_template).ask().status == 200


def test_weights_page_tables_go_along_and_the_file_stays_as_it_is(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in filetype_artifact.rglob("model.weights")}
    made = environ(filetype_artifact, cache, PREHEAT_VARIANT="packed")  # its weights are mapped
    with template_of(made, tmp_path / "log") as template:
        template.wait_ready()
        mapped: dict[str, dict[str, int]] = {}
        for line in Path(f"/proc/{template.pid}/smaps").read_text().splitlines():
            words = line.split()
            if not words[0].endswith(":"):
                mapping = mapped.setdefault(line, {})
            elif words[-1] == "kB":
                mapping[words[0]] = int(words[1])
        weights = [one for line, one in mapped.items() if line.endswith("model.weights")]
        large = [one for one in weights if one["Size:"] >= 256]
        assert large
        assert all(one["Anonymous:"] > 0 for one in large)
        assert sum(one["Anonymous:"] for one in weights) * 20 < sum(one["Rss:"] for one in weights)
        assert Instance(template).ask().status == 200
    assert {path: path.read_bytes() for path in before} == before
