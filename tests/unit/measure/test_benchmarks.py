"""The benchmarks' own arithmetic and verdicts; the figures themselves are for `make bench`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks import __main__ as entry
from benchmarks import models
from benchmarks.figures import Benchmark, Claim, Line

from preheat.errors import UsageError

FAST = Benchmark(
    "a title",
    [Line("base", [10.0, 12.0, 11.0]), Line("other", [22.0, 21.0, 23.0])],
    [Claim("base / other", 0.5, 0.6, at_most=True), Claim("other / base", 2.0, 1.9, at_most=False)],
)
SLOW = FAST._replace(
    claims=[Claim("base / other", 0.7, 0.6, at_most=True), Claim("x", 1.8, 1.9, at_most=False)]
)


def test_a_claim_holds_up_to_its_bound() -> None:
    assert [claim.holds for claim in (*FAST.claims, *SLOW.claims)] == [True, True, False, False]
    assert Claim("", 1.25, 1.25, at_most=True).holds
    assert Claim("", 3.0, 3.0, at_most=False).holds
    assert str(FAST.claims[0]) == "base / other: 0.500 x (at most 0.6 x)"


@pytest.mark.parametrize(
    ("found", "options", "status", "verdicts"),
    [
        (FAST, [], 0, ["PASS", "PASS"]),
        (FAST, ["--strict"], 0, ["PASS", "PASS"]),
        (SLOW, [], 0, ["MISS", "MISS"]),
        (SLOW, ["--strict"], 1, ["MISS", "MISS"]),
        (FAST._replace(wrong=1), ["--strict"], 1, ["PASS", "PASS"]),
    ],
)
def test_the_command_prints_verdicts_and_is_strict_when_asked(
    found: Benchmark,
    options: list[str],
    status: int,
    verdicts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    asked = []

    def measured(artifact: Path, rounds: int, _: object) -> Benchmark:
        asked.append((artifact, rounds))
        return found

    monkeypatch.setattr(entry, "ENTRIES", {"one": entry.Entry(lambda _: tmp_path, measured, 7)})
    written = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "one", "--json", str(written), *options])
    assert entry.main() == status
    out = capsys.readouterr().out
    assert [word for word in out.split() if word in ("PASS", "MISS")] == verdicts
    assert "-m benchmarks one --rounds 7" in out
    assert "2.00" in out  # the ratio of the medians
    assert asked == [(tmp_path, 7)]
    assert '"other"' in written.read_text()


def test_without_an_export_environment_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models, "ROOT", tmp_path)
    monkeypatch.setattr(models, "OUT", tmp_path / "out")
    monkeypatch.delenv(models.EXPORT, raising=False)
    with pytest.raises(UsageError, match="run `make bench`"):
        models.bert_base(lambda _: None)


def test_an_export_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no torch here >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(models, "OUT", tmp_path / "out")
    monkeypatch.setenv(models.EXPORT, str(python))
    with pytest.raises(UsageError, match="failed: no torch here"):
        models.bert_base(lambda _: None)
    assert models.EXPORT not in models.server_environ()
