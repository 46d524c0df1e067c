"""What is simulated of `preheat up` is what it does: the cold share within 3 points, p99 within a fifth."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import agreement

pytest.importorskip(
    "preheat.local.gateway", reason="there is no `preheat up` yet to hold the simulation against"
)


@pytest.mark.alone
@pytest.mark.parametrize("scenario", agreement.scenarios(1), ids=lambda one: one.name)
def test_simulated_and_measured_agree(scenario: agreement.Scenario, filetype_artifact: Path) -> None:
    found = agreement.agree(filetype_artifact, scenario)
    told = f"{found.measured_ms} ms measured, {found.simulated_ms} ms simulated"
    assert found.measured_cold > 0
    assert found.cold_points <= agreement.COLD_POINTS, told
    assert found.p99_off <= agreement.P99_RATIO, told
