"""What `make bench-peers` writes, from samples made up here; the figures are for a quiet machine."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from benchmarks import load
from benchmarks.side_by_side import __main__ as entry
from benchmarks.side_by_side import environments, measure, plot, process, report
from benchmarks.side_by_side.contenders import EVERY, PEERS, Contender

from preheat.errors import EngineError, UsageError
from preheat.measure.start import children

from ..conftest import ROOT, running


def row(label: str, start: float, latency: float, rate: float, memory: float, **more: Any) -> dict[str, Any]:
    """Three rounds around the given medians."""
    around = (0.9, 1.0, 1.2)
    levels = {
        str(n): [
            {"rate": rate * x, "p50_ms": latency * x, "p99_ms": 2 * latency * x, "failed": 0} for x in around
        ]
        for n in measure.LEVELS
    }
    return {
        "label": label,
        "ours": label.startswith("Preheat"),
        "joins": "no",
        "versions": {"it": "1.0"},
        "first_ms": [start * x for x in around],
        "memory_mib": [memory * x for x in around],
        "levels": levels,
        "wrong": [],
        **more,
    }


def samples(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        **{
            "date": "2026-01-02",
            "minutes": 3.5,
            "command": "make bench-peers",
            "machine": "4 CPUs of a kind",
        },
        **{"python": "3.11.7", "rounds": 3, "seconds": 3.0, "threads": 2, "server_cpus": [0, 1]},
        **{"client_cpus": [2, 3], "model": "embed", "rows": [*rows], "left_out": []},
    }


OURS = row("Preheat", 200.0, 4.0, 300.0, 150.0)
FOUND = samples(OURS, row("Other", 600.0, 5.0, 400.0, 300.0), row("Third", 700.0, 6.0, 100.0, 140.0))


def cells(text: str, label: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {label} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_short_table_has_medians_and_marks_the_best() -> None:
    (ours,), (other,), (third,) = (cells(report.short(FOUND), name) for name in ("Preheat", "Other", "Third"))
    assert ours == ["Preheat", "**200**", "**4.0**", "300", "300", "300", "150"]
    assert other == ["Other", "600", "5.0", "**400**", "**400**", "**400**", "300"]
    assert third == ["Third", "700", "6.0", "100", "100", "100", "**140**"]


def test_where_another_is_better_it_says_so() -> None:
    assert report.better(FOUND) == (
        "Better than Preheat in answers/s, 1 at once: Other 400 against 300; answers/s, 8 at once: Other 400 "
        "against 300; answers/s, 32 at once: Other 400 against 300; memory: Third 140 against 150."
    )
    assert report.better(FOUND) in report.short(FOUND)
    assert "- answers/s, 32 at once, 300: Other 400\n- memory, MiB, 150: Third 140\n" in report.page(FOUND)
    several = samples(OURS, row("Other", 1.0, 5.0, 200.0, 300.0), row("Third", 2.0, 5.0, 200.0, 300.0))
    assert report.better(several) == "Better than Preheat in start: Other 1 and 1 more against 200."
    assert report.better(samples(OURS, row("Other", 600.0, 5.0, 200.0, 300.0))).startswith("None is better")


def test_preheat_with_another_setting_is_no_peer() -> None:
    found = samples(
        OURS, row("Preheat, tuned", 100.0, 1.0, 900.0, 50.0), row("Other", 300.0, 5.0, 200.0, 300.0)
    )
    assert report.better(found).startswith("None is better")
    assert cells(report.short(found), "Preheat, tuned")[0][1] == "**100**"


def test_what_prints_alike_is_not_better() -> None:
    assert report.better(samples(OURS, row("Other", 199.8, 3.99, 300.4, 149.9))).startswith("None is better")


def test_the_page_has_ranges_and_tells_what_is_missing() -> None:
    broken = row("Broken", 1.0, 1.0, 1.0, 1.0, wrong=["round 1: it ended"])
    silent = {**broken, "label": "Silent", "first_ms": [], "memory_mib": [], "levels": {}}
    found = {**samples(OURS, broken, silent), "left_out": [{"label": "Gone", "why": "pip cannot install it"}]}
    page = report.page(found)
    assert cells(page, "Preheat")[0][1] == "200 (180 to 240)"
    assert "- Broken: round 1: it ended" in page
    assert "- Silent: no round gave a measurement" in page
    assert "- Gone: pip cannot install it" in page
    assert cells(page, "Silent") == []
    assert not re.search(r"\{\w+\}", page)


def test_without_a_measurement_of_preheat_there_is_no_table() -> None:
    with pytest.raises(UsageError, match="no round of Preheat"):
        report.page(samples({**OURS, "first_ms": []}, row("Other", 1.0, 1.0, 1.0, 1.0)))


def test_readme_gets_the_table_in_its_place_and_keeps_the_rest() -> None:
    readme = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.placed(readme, "new") == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    with pytest.raises(UsageError, match=r"README\.md must have"):
        report.placed("nothing here", "new")
    assert "| Preheat |" in report.placed((ROOT / "README.md").read_text(), report.short(FOUND))


def test_the_picture_names_everyone_and_has_its_own_ground() -> None:
    svg = plot.drawn(FOUND)
    words = {element.text for element in ElementTree.fromstring(svg).iter() if element.text}
    assert {"Preheat", "Other", "Third", "200", "140"} <= {word.strip() for word in words}
    assert f"fill: {plot.GROUND}" in svg
    assert svg == plot.drawn(FOUND)  # nothing of the day or of chance is in it


def test_samples_are_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "peers.json").write_text(json.dumps(FOUND))
    readme = (ROOT / "README.md").read_text()
    assert entry.main(["--samples", str(tmp_path / "peers.json"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "peers.md").read_text() == report.page(FOUND)
    assert (tmp_path / "peers.svg").read_text() == plot.drawn(FOUND)
    assert "# Side by side" in capsys.readouterr().out
    assert (ROOT / "README.md").read_text() == readme


def test_an_unknown_peer_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        entry.main(["--peers", "flask"])
    assert "there is no 'flask'" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(PEERS.glob("*.py")), ids=lambda file: file.name)
def test_a_peer_is_python_and_imports_what_its_environment_has(file: Path) -> None:
    """Compiled here, imported in its environment alone."""
    tree = ast.parse(file.read_text(), file.name)
    compile(tree, file.name, "exec")
    assert ast.get_docstring(tree)


@pytest.mark.parametrize(
    "contender", [c for c in EVERY if c.environment], ids=lambda contender: contender.name
)
def test_a_peer_has_pinned_requirements_and_a_file(contender: Contender) -> None:
    lines = (PEERS / "requirements" / f"{contender.environment}.txt").read_text().splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    constrained = environments.CONSTRAINTS.read_text()
    assert all("==" in line or f"{line}==" in constrained for line in wanted), wanted
    named = {line.split("==")[0].split("[")[0] for line in wanted}
    assert {*contender.told} <= named
    told = " ".join([*contender.command, *contender.files.values()])
    modules = [file for file in PEERS.glob("*.py") if re.search(rf"\b{file.stem}\b", told)]
    assert len(modules) == 1, told


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "kserve.txt").write_text("no-such-package==1.0\n")
    monkeypatch.setattr(environments, "PEERS", tmp_path)
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "made")
    kserve = next(contender for contender in EVERY if contender.name == "kserve")
    with pytest.raises(UsageError, match=r"pip cannot install kserve\.txt: ERROR: .*no-such-package"):
        environments.make(kserve, ["--no-index", "--isolated"])
    assert not (tmp_path / "made" / "kserve" / "made-from").exists()


def test_a_server_is_timed_from_its_spawn_and_ended_with_its_children(tmp_path: Path) -> None:
    """It says 503 at first, which is no answer, and leaves a child that ignores SIGTERM."""
    script = tmp_path / "server.py"
    script.write_text(SLOW)
    command = [sys.executable, str(script), process.PORT]
    with process.started(
        command, {**os.environ}, {"word": "hello"}, [*os.sched_getaffinity(0)], ASKED
    ) as server:
        assert server.first.body == b"hello"
        assert server.first_ms >= 300
        (child,) = children(server.process.pid)
        assert process.memory_mib(server.process.pid) > (process.own_pss_mib(child) or 0) > 0
    assert server.process.returncode is not None
    assert not running(child)


ASKED = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
SLOW = """
import subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

begin = time.monotonic()
ignoring = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", ignoring])


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = open("word", "rb").read()
        self.send_response(200 if time.monotonic() - begin > 0.3 else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_that_ends_is_told_with_its_last_words() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no model here')"]
    with (
        pytest.raises(EngineError, match="no model here"),
        process.started(command, {**os.environ}, {}, [*os.sched_getaffinity(0)], ASKED),
    ):
        pass


def test_what_is_answered_after_a_load_is_no_answer_of_its_time() -> None:
    seen = [load.Seen(n, "none", 200, 10.0 + n, 900.0, "") for n in range(4)]  # the last one ends at 13.9
    found = measure.level([*seen, load.Seen(4, "none", 503, 12.0, 5.0, "")], 13.0)
    assert (found.rate, found.p50_ms, found.p99_ms, found.failed) == (1.0, 900.0, 900.0, 1)
    with pytest.raises(EngineError, match="of 1 requests under load none"):
        measure.level(seen[3:], 13.5)


def test_embeddings_are_held_against_each_other() -> None:
    right = np.array([1.0, 0.0, 0.0], dtype=np.float32)
    assert measure._apart([right * 3], [right]) is None
    assert "is 0.9" in str(measure._apart([np.array([1.0, 0.1, 0.0], dtype=np.float32)], [right]))
    assert "shape" in str(measure._apart([np.zeros(2, dtype=np.float32)], [right]))
    assert "is nan" in str(measure._apart([np.full(3, np.nan, dtype=np.float32)], [right]))
