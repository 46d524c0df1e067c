"""`preheat measure` and `preheat report` as a person runs them, on real models and real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from preheat import manifest as manifests
from preheat.build import manifest_text

from ..conftest import ROOT
from .test_waterfall import Page

MINIMUM_COVERAGE = 0.95


def preheat(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREHEAT_")}
    return subprocess.run(
        [sys.executable, "-m", "preheat", *map(str, arguments)],
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def check_summary(figure: dict[str, Any]) -> None:
    assert set(figure) == {"median", "min", "max", "ci95"}
    low, high = figure["ci95"]
    assert figure["min"] <= low <= figure["median"] <= high <= figure["max"]


@pytest.mark.parametrize("name", ["filetype", "embed"])
def test_cold_starts_are_measured_by_phase_beside_their_floor(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    artifact: Path = request.getfixturevalue(f"{name}_artifact")
    page = tmp_path / "report.html"
    done = preheat(
        *("measure", artifact, "--rounds", "3", "--floor", "--json", "--report", page),
        PREHEAT_CACHE=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    assert (row["start"], row["target"], row["correct"]) == ("fresh", str(artifact), True)
    assert row["samples"] == report["rounds"] == 3
    assert row["wrong"] == row["floor_wrong"] == []
    for figure in (row["total_ms"], *row["phases"].values(), report["floor_ms"]):
        check_summary(figure)
    names = list(row["phases"])
    assert (names[0], names[-1]) == ("platform", "unaccounted")
    assert {"import", "download", "compile", "warmup", "first_request", "network"} <= set(names)
    assert row["phases"]["unaccounted"]["median"] <= (1 - MINIMUM_COVERAGE) * row["total_ms"]["median"]
    assert row["coverage"] > 0.8
    assert 10 < row["pss_mib"] < 2000
    assert 0 < report["floor_ms"]["min"] <= row["total_ms"]["max"]
    assert report["ratio"] == row["ratio"]
    assert report["ratio"] == pytest.approx(
        row["total_ms"]["median"] / report["floor_ms"]["median"], abs=1e-3
    )
    assert name in Page(page.read_text()).text


def test_clones_are_measured_in_the_same_rounds_as_fresh_processes(
    filetype_artifact: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    done = preheat(
        *("measure", filetype_artifact, "--rounds", "3", "--floor", "--json", "--start", "fresh,fork"),
        *("--report", page),
        PREHEAT_CACHE=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    fresh, fork = json.loads(done.stdout)["rows"]
    assert [row["start"] for row in (fresh, fork)] == ["fresh", "fork"]
    assert fresh["wrong"] == fork["wrong"] == []
    assert fork["samples"] == 3
    assert {"restore", "first_request"} <= set(fork["phases"])
    assert not {"platform", "import", "compile"} & set(fork["phases"])
    assert fork["coverage"] > 0.5  # of some 15 ms; until the template is woken nobody measures
    assert fork["total_ms"]["median"] < fresh["total_ms"]["median"]
    assert fork["floor_ms"] == fresh["floor_ms"]
    assert "restored by fork" in Page(page.read_text()).text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--start", "warm"), "a start is fresh, fork, criu; not warm"),
        (("--start", "fork", "--drop-caches"), "about fresh starts alone"),
    ],
)
def test_starts_that_cannot_be_measured_are_refused(
    arguments: tuple[str, ...], said: str, filetype_artifact: Path, tmp_path: Path
) -> None:
    done = preheat("measure", filetype_artifact, *arguments, PREHEAT_CACHE=str(tmp_path))
    assert (done.returncode, said in done.stderr) == (2, True)


def test_each_variant_has_its_row_and_its_floor(filetype_artifact: Path, tmp_path: Path) -> None:
    done = preheat(
        *("measure", filetype_artifact, "--rounds", "1", "--floor", "--json"),
        *("--variant", "portable", "--variant", "mapped"),
        PREHEAT_CACHE=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["variant"] for row in report["rows"]] == ["portable", "mapped"]
    assert report["floor_ms"] == report["rows"][0]["floor_ms"] != report["rows"][1]["floor_ms"]


def test_a_function_is_a_target_too_and_a_person_sees_a_table(
    tmp_path: Path, filetype_artifact: Path
) -> None:
    assert filetype_artifact.parent == ROOT / "functions" / "filetype"
    done = preheat(
        "measure", filetype_artifact.parent / "app.py", "--rounds", "1", PREHEAT_CACHE=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    for expected in ("platform", "first request", "unaccounted", "total", "filetype", "1 fresh process"):
        assert expected in done.stdout
    assert "floor" not in done.stdout


def test_a_function_with_a_task_of_its_own_is_asked_for_tensors(
    filetype_artifact: Path, tmp_path: Path
) -> None:
    shutil.copytree(filetype_artifact, tmp_path / "artifact")
    app = tmp_path / "app.py"
    app.write_text(
        "import preheat\n"
        "class Own(preheat.Task):\n"
        "    def prepare(self, request): raise ValueError('never asked')\n"
        "    def finish(self, outputs, inputs): raise ValueError('never asked')\n"
        "function = preheat.Function(__file__, task=Own)\n"
    )
    done = preheat(
        "measure", app, "--rounds", "1", "--floor", "--json", PREHEAT_CACHE=str(tmp_path / "cache")
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows"][0]["correct"] is True
    assert report["rows"][0]["floor_wrong"] == []


def changed(artifact: Path, folder: Path, **fields: Any) -> Path:
    """A copy of an artifact whose manifest says something else."""
    shutil.copytree(artifact, folder)
    path = folder / manifests.FILENAME
    found = manifests.load(path.read_bytes())
    path.write_text(manifest_text.dump(found._replace(**fields)))
    return folder


def test_wrong_answers_are_counted_and_never_averaged(filetype_artifact: Path, tmp_path: Path) -> None:
    sample = manifests.load((filetype_artifact / manifests.FILENAME).read_bytes()).sample
    assert sample is not None
    wrong = {**sample, "answer": {"predictions": [{**sample["answer"]["predictions"][0], "label": "cat"}]}}
    artifact = changed(filetype_artifact, tmp_path / "wrong", sample=wrong)
    page = tmp_path / "report.html"
    cache = str(tmp_path / "cache")
    done = preheat("measure", artifact, "--rounds", "2", "--json", "--report", page, PREHEAT_CACHE=cache)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    assert (row["correct"], row["samples"], row["total_ms"], row["phases"]) == (False, 0, None, {})
    assert [w["round"] for w in row["wrong"]] == [1, 2]
    assert "not 'cat'" in row["wrong"][0]["problem"]
    assert "not 'cat'" in Page(page.read_text()).text
    table = preheat("measure", artifact, "--rounds", "1", PREHEAT_CACHE=cache)
    assert table.returncode == 1
    assert "no start gave a correct answer" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "environ", "status", "message"),
    [
        (["/no/such/folder"], {}, 1, "/no/such/folder does not exist"),
        (["/no/such/app.py"], {}, 2, "/no/such/app.py does not exist"),
        (["ARTIFACT", "--variant", "fast"], {}, 2, "no variant 'fast'; it has portable"),
        (["ARTIFACT", "--rounds", "0"], {}, 2, "--rounds"),
        (["ARTIFACT", "--report", "/proc/version/x.html"], {}, 2, "/proc/version/x.html cannot be written"),
        (["ARTIFACT", "--report", "/"], {}, 2, "name a file"),
        (["ARTIFACT"], {"PREHEAT_REQUIRE_PROVIDER": "CUDAExecutionProvider"}, 1, "CUDAExecutionProvider"),
        (["ARTIFACT"], {"PREHEAT_THREAD": "1"}, 2, "did you mean PREHEAT_THREADS"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(
    arguments: list[str],
    environ: dict[str, str],
    status: int,
    message: str,
    filetype_artifact: Path,
    tmp_path: Path,
) -> None:
    told = [str(filetype_artifact) if a == "ARTIFACT" else a for a in arguments]
    done = preheat("measure", *told, PREHEAT_CACHE=str(tmp_path), **environ)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def marked(mark: str) -> list[int]:
    """Processes whose environment holds a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("more", [("--floor",), ("--start", "fork")])
def test_an_interrupted_measurement_leaves_nothing_running(
    number: signal.Signals, more: tuple[str, ...], filetype_artifact: Path, tmp_path: Path
) -> None:
    mark = f"PREHEAT_CACHE={tmp_path}"
    process = subprocess.Popen(
        [sys.executable, "-m", "preheat", "measure", str(filetype_artifact), "--rounds", "500", *more],
        env={**os.environ, "PREHEAT_CACHE": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while len(marked(mark)) < (2 if more == ("--floor",) else 3):  # itself, a template, and a start
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    assert marked(mark) == []


def test_a_report_puts_several_runs_on_one_page(
    filetype_artifact: Path, embed_artifact: Path, tmp_path: Path
) -> None:
    runs: list[Path] = []
    for artifact, more in ((filetype_artifact, ["--floor"]), (embed_artifact, [])):
        cache = str(tmp_path / "cache")
        done = preheat("measure", artifact, "--rounds", "1", "--json", *more, PREHEAT_CACHE=cache)
        assert done.returncode == 0, done.stderr
        runs.append(tmp_path / f"{len(runs)}.json")
        runs[-1].write_text(done.stdout)
    out = tmp_path / "report.html"
    done = preheat("report", *runs, "-o", out)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    found = Page(text)
    assert len(list(found.all("svg"))) == 2
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) == 4
    assert text.count(">floor</text>") == 1  # drawn where it was measured
    for expected in (
        "filetype",
        "embed",
        "Side by side",
        "Variants, as the planner measured them",
        "portable",
    ):
        assert expected in found.text
    assert not [a for _, a in found.tags for name in a if name in ("src", "href")]


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"rows": 3}', "\x00"])
def test_a_report_of_what_is_no_run_is_refused(text: str, tmp_path: Path) -> None:
    run = tmp_path / "run.json"
    run.write_text(text)
    done = preheat("report", run, "-o", tmp_path / "out.html")
    assert done.returncode == 2
    assert str(run) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.html").exists()


def test_caches_are_dropped_before_each_start(filetype_artifact: Path, tmp_path: Path) -> None:
    done = preheat(
        *("measure", filetype_artifact, "--rounds", "1", "--floor", "--drop-caches", "--json"),
        PREHEAT_CACHE=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["caches"] in ("dropped (kernel)", "dropped (fadvise)")
