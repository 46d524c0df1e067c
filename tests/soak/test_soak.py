"""A short soak, and that one finds what it is there for. `make soak` is its long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from .load import Load
from .run import Soak, soak

SHORT_S = 10.0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("start", ["fork", "fresh"])
def test_nothing_leaks_sticks_or_is_lost(start: str, embed_artifact: Path, tmp_path: Path) -> None:
    report = soak(Soak(SHORT_S, start, kill_every_s=2.0), tmp_path)
    assert report["wrong"] == []
    assert report["kept"] == report["replayed"] > 10
    assert sum(report["kills"].values()) > 1
    statuses = set().union(*report["statuses"].values())
    assert {"200", "202", "400", "401", "404", "415"} <= statuses


def test_a_lost_outcome_is_found(
    embed_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's records are forgotten before the end."""
    replay = Load.replay

    def forgetful(self: Load, threads: int) -> int:
        for database in (tmp_path / "cache").rglob("*ledger*"):
            database.unlink()
        for name in ("filetype", "embed"):
            self._gateway.scale(0, name)
        return replay(self, threads)

    monkeypatch.setattr(Load, "replay", forgetful)
    report = soak(Soak(4.0, "fork", kill_every_s=60.0), tmp_path)
    assert report["kept"] > report["replayed"]
    assert any("run again, not replayed" in one or "lost" in one for one in report["wrong"])
