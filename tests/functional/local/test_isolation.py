"""PREHEAT_ISOLATE=tenant: an instance for each who is authenticated, and none for anybody else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from .conftest import up


@pytest.mark.parametrize("kind", ["fresh", "fork", "criu"], indirect=True)
def test_each_tenant_has_instances_of_its_own(told: Path, tmp_path: Path, kind: str) -> None:
    keys = tmp_path / "keys.json"
    names = ("acme", "beta", "gamma")
    digests = {name: "sha256:" + hashlib.sha256(f"of-{name}".encode()).hexdigest() for name in names}
    keys.write_text(json.dumps(digests))
    isolated = {"PREHEAT_ISOLATE": "tenant", "PREHEAT_API_KEYS": str(keys)}
    with up(tmp_path, str(told), "--max", "2", "--start", kind, **isolated) as gateway:
        nobody = gateway.predict()
        assert (nobody.status, nobody.headers["www-authenticate"]) == (401, "Bearer")
        assert gateway.predict(x_api_key="of-nobody").status == 401
        assert gateway.function()["instances"] == [], "nothing is started for strangers"
        answers = [gateway.predict(x_api_key=f"of-{name}") for name in ("acme", "beta", "acme")]
        assert [one.status for one in answers] == [200] * 3
        first, second, again = (one.headers["x-preheat-instance"] for one in answers)
        assert first == again != second
        tenants = {one["id"]: one["tenant"] for one in gateway.function()["instances"]}
        assert tenants == {first: "key:acme", second: "key:beta"}
        # There may be two: the one that lay idle longest, beta's, makes room.
        third = gateway.predict(x_api_key="of-gamma")
        assert third.status == 200
        assert third.headers["x-preheat-start"] == ("cold" if kind == "fresh" else "restored")
        alive = {one["tenant"] for one in gateway.function()["instances"] if one["state"] == "ready"}
        assert alive == {"key:acme", "key:gamma"}
        assert gateway.predict(x_api_key="of-beta").status == 200
        assert gateway.scale(1).status == 400
        assert gateway.scale(0).status == 200
        assert gateway.function()["instances"] == []
