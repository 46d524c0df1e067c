"""`preheat plan` as a person and a program meet it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ...conftest import ROOT
from ..build.conftest import Ran, preheat

FILETYPE = ROOT / "functions" / "filetype" / "app.py"


def plan(*arguments: str | Path, rate: str | Path = "2", objective: str = "p99=500ms", **environ: str) -> Ran:
    asked = ("--rate", rate, "--objective", objective, "--requests", "20000", *arguments)
    return preheat("plan", FILETYPE, *asked, **environ)


def found(*arguments: str | Path, status: int = 0, **asked: Any) -> Any:
    ran = plan(*arguments, "--json", **asked)
    assert ran.status == status, ran.out + ran.err
    return ran.json()


def test_the_usual_options_for_a_rate() -> None:
    said = found()
    names = {one["name"] for one in said["options"]}
    assert {"lambda", "lambda:snapstart", "cloudrun", "knative", "knative:min=1"} <= names
    assert said["artifact"]["name"] == "filetype"
    assert said["chosen"] == said["options"][0]["name"]
    meeting = [one["monthly_usd"]["total"] for one in said["options"] if one["meets"]]
    assert meeting == sorted(meeting)
    for one in said["options"]:
        assert 0 < one["latency_ms"]["p50"] <= one["latency_ms"]["p99"]
        assert 0 <= one["cold_share"] <= 1
        assert sum(one["monthly_usd"]["parts"].values()) == pytest.approx(
            one["monthly_usd"]["total"], abs=1e-3
        )


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    chosen = ("--options", "knative:concurrency=2,max=3", "--options", "lambda")
    assert found(*chosen) == found(*chosen)
    assert found(*chosen) != found(*chosen, "--seed", "2")


def test_a_trace_with_gaps_shows_who_scales_to_zero(tmp_path: Path) -> None:
    """A pair of requests every half hour: both meet a cold start on Lambda; one that is kept does not."""
    trace = tmp_path / "trace.csv"
    trace.write_text("".join(f"{hour * 1800}\n{hour * 1800 + 60}\n" for hour in range(100)))
    named = ("--options", "lambda", "--options", "knative:min=1")
    said = found(*named, rate=trace)
    assert said["chosen"] == "knative:min=1"
    by_name = {one["name"]: one for one in said["options"]}
    assert by_name["lambda"]["cold_share"] == pytest.approx(0.5)
    assert by_name["knative:min=1"]["cold_share"] == 0
    assert "meet a cold start" in by_name["lambda"]["missed"][0]
    assert any("rests on fewer than 20" in risk for risk in said["risks"])


def test_starts_are_taken_from_a_run(tmp_path: Path) -> None:
    variant = found("--options", "lambda")["options"][0]["variant"]
    measured = preheat("measure", FILETYPE, "--rounds", "2", "--variant", variant, "--json")
    assert measured.status == 0, measured.err
    run = tmp_path / "run.json"
    run.write_text(measured.out)
    threads = json.loads((FILETYPE.parent / "artifact" / "manifest.json").read_text())["measurements"][
        "threads"
    ]
    said = found("--run", run, "--options", f"up:cpu={threads}")  # as measured: nothing is scaled
    total = measured.json()["rows"][0]["total_ms"]
    assert said["options"][0]["start_ms"][1] == pytest.approx(total["median"], rel=0.01)
    assert said["options"][0]["start_ms"][2] == pytest.approx(total["max"], rel=0.01)
    assert not any("assumed, and was not measured" in risk for risk in said["risks"])
    document = measured.json()
    document["artifact"]["version"] = "sha256:" + "0" * 64
    run.write_text(json.dumps(document))
    assert "another artifact" in plan("--run", run).error


def test_an_objective_that_nobody_meets_is_an_answer(tmp_path: Path) -> None:
    ran = plan("--options", "lambda", "-o", tmp_path / "decision.md", objective="p99=1ms")
    assert ran.status == 1
    assert not ran.err
    assert "No option meets p99 of at most 1.0 ms" in ran.out
    assert "a faster variant" in ran.out
    assert "the objective is not met" in (tmp_path / "decision.md").read_text()


def test_the_decision_record_has_all_of_its_parts(tmp_path: Path) -> None:
    said = found("-o", tmp_path / "new" / "decision.md")
    text = (tmp_path / "new" / "decision.md").read_text()
    heads = ["Context", "Decision", "Options", "Measured figures", "Assumptions", "Risks"]
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == heads
    assert f"Run it as **{said['chosen']}**." in text
    assert "To be reviewed by " in text
    for line in (*said["why"], *said["assumptions"], *said["risks"]):
        assert line in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 2 * len(said["options"])


def test_a_person_gets_a_table_of_80_columns() -> None:
    ran = plan()
    assert ran.status == 0
    for word in ("p99", "cold", "meets", "cheapest", "not checked since", "Cloud Run", "Next is"):
        assert word in ran.out.replace("cloudrun", "Cloud Run")
    assert max(len(line) for line in ran.out.splitlines() if line.startswith("  ")) <= 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rate", "0"), "--rate must be above 0"),
        (("--rate", "-3"), "--rate must be above 0"),
        (("--rate", "nowhere.csv"), "nowhere.csv cannot be read: No such file"),
        (("--objective", "fast"), "--objective must be as p99=500ms"),
        (("--options", "lambda:memory=64"), "must be"),
        (("--options", "azure"), "the platform must be one of"),
        (("--region", "mars-1"), "no prices for the region"),
        (("--platforms", "none.toml"), "none.toml cannot be read"),
        (("--run", "none.json"), "none.json cannot be read"),
        (("--latency-ms", "0"), "--latency-ms must be more than 0"),
        (("--architecture", "sparc"), "the architecture must be one of"),
        (("--requests", "0"), "--requests must be 1 to"),
        (("-o", "/proc/decision.md"), "/proc/decision.md cannot be written"),
        (("--rate", "1e9"), "at most 10,000 instances"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    base = {"--rate": "2", "--objective": "p99=500ms"}
    rest = [text for name, value in base.items() if name != arguments[0] for text in (name, value)]
    ran = preheat("plan", FILETYPE, *rest, *arguments)
    assert ran.status == 2
    if "memory=64" in arguments[1]:
        assert "the model needs" in ran.error
    else:
        assert said in ran.error


def test_what_costs_nothing_and_what_costs_as_much_is_said_so() -> None:
    ran = plan("--options", "up", "--options", "up:min=1", COLUMNS="300")
    assert "Next is up:min=1, for as much." in ran.out
    assert "up: nothing is charged" in ran.out
    assert "up: a start as it is, 0.5 to 2 ms with each answer" in ran.out
    for wrong in ("as of none", "0 to 0 ms", "$0.0000", "list prices", "on Lambda"):
        assert wrong not in ran.out


def test_a_file_of_the_wrong_kind_is_told_the_right_one(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    for content, said in (
        ("{}", "holds something else"),
        ("abc", "is no JSON document"),
        ("{}\n{}", "is no JSON"),
    ):
        wrong.write_text(content)
        cold = f"{wrong} {said}"
        by = "measured cold starts are wanted, which `preheat measure TARGET --json > RUN.json` writes"
        for command in (
            ("check", "lambda", FILETYPE, "--run", wrong),
            ("report", wrong, "-o", tmp_path / "page"),
        ):
            line = preheat(*command).error
            assert cold in line
            assert by in line
        assert "or a load test's run, which `preheat load SCENARIO" in line
        assert by in plan("--run", wrong).error
        assert "which `preheat load SCENARIO" in preheat("compare", wrong, wrong).error


def test_what_was_never_measured_cannot_be_planned_for(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    manifest = json.loads((FILETYPE.parent / "artifact" / "manifest.json").read_text())
    manifest["measurements"] = {}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    ran = preheat("plan", folder, "--rate", "2", "--objective", "p99=1s")
    assert ran.status == 2
    assert "carries no measurements" in ran.error
