"""Rates and traces: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preheat.deploy.cost import MONTH_S
from preheat.errors import UsageError
from preheat.plan import traffic


def trace(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_rate_is_a_poisson_process() -> None:
    found = traffic.of("4", 100_000, seed=1)
    gaps = np.diff(found.arrivals)
    assert len(found.arrivals) == 100_000
    assert found.rate == pytest.approx(4)
    assert float(np.mean(gaps)) == pytest.approx(0.25, rel=0.02)
    assert float(np.std(gaps)) == pytest.approx(0.25, rel=0.02)
    assert np.array_equal(found.arrivals, traffic.of("4", 100_000, seed=1).arrivals)
    assert not np.array_equal(found.arrivals, traffic.of("4", 100_000, seed=2).arrivals)


def test_no_more_than_a_month_is_simulated_but_enough_to_tell() -> None:
    assert len(traffic.of("0.01", 100_000, 1).arrivals) == round(0.01 * MONTH_S)
    assert len(traffic.of("0.00001", 100_000, 1).arrivals) == traffic.LEAST


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("10\n10.5\n\n12\n", "trace.csv"),
        ("timestamp\n10\n10.5\n12\n", "trace.csv"),
        ("route,Time,bytes\n/predict,10,3\n/predict,10.5,3\n/predict,12,3\n", "trace.csv"),
        ('{"ts": 10}\n{"ts": 10.5}\n{"ts": 12}\n', "trace.txt"),
        ("10\n10.5\n12\n", "trace.jsonl"),
        ("2026-08-01T00:00:10Z\n2026-08-01T02:00:10.5+02:00\n2026-08-01T00:00:12\n", "trace.csv"),
        ("\ufeff10\r\n10.5\r\n12\r\n", "trace.csv"),
    ],
)
def test_traces(text: str, name: str, tmp_path: Path) -> None:
    found = traffic.of(str(trace(tmp_path, text, name)), 100_000, 1)
    assert found.arrivals == pytest.approx([0.0, 0.5, 2.0])
    assert found.span_s == pytest.approx(3.0)  # the mean gap once more, after the last
    assert found.rate == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "t.csv", "empty trace"),
        ("timestamp\n", "t.csv", "empty trace"),
        ("1\n2\n1.5\n", "t.csv", "line 3: the trace is out of order: 1.5 comes after 2; sort it"),
        ("-1\n2\n", "t.csv", "line 1: a negative time, -1"),
        ("1\nsoon\n", "t.csv", "line 2: 'soon' is no time"),
        ("1\nnan\n", "t.csv", "line 2: 'nan' is no time"),
        ("5\n", "t.csv", "one and the same time"),
        ("5\n5\n5\n", "t.csv", "one and the same time"),
        ("1767225600000\n1767225600001\n", "t.csv", "in milliseconds?"),
        ("route,bytes\n/predict,3\n", "t.csv", "must name the column"),
        ("route,time\n/predict,1\n/predict\n", "t.csv", "line 3: it has no column 2"),
        ('{"ts": 1}\n{"when": 2}\n', "t.jsonl", "line 2: an object without timestamp or"),
        ('{"ts": 1}\n{"ts"', "t.jsonl", "line 2: not JSON"),
        ('{"ts": true}\n', "t.jsonl", "line 1: 'True' is no time"),
        ("[1, 2]\n", "t.jsonl", "line 1: '[1, 2]' is no time"),
        ("1" * 5000 + "\n", "t.jsonl", "line 1"),
    ],
)
def test_what_is_no_trace(text: str, name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="t\\.") as refused:
        traffic.of(str(trace(tmp_path, text, name)), 100_000, 1)
    assert said in str(refused.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    for path, said in (
        (tmp_path, "directory"),
        (tmp_path / "none", "No such file"),
        (tmp_path / "binary", "UTF-8"),
    ):
        with pytest.raises(UsageError, match=said):
            traffic.of(str(path), 100_000, 1)


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "1e-9"])
def test_what_is_no_rate(rate: str) -> None:
    with pytest.raises(UsageError, match="--rate"):
        traffic.of(rate, 100_000, 1)


@pytest.mark.parametrize("requests", [0, -5, traffic.MOST + 1])
def test_how_many_requests(requests: int) -> None:
    with pytest.raises(UsageError, match="--requests"):
        traffic.of("1", requests, 1)
