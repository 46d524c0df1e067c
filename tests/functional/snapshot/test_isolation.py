"""PREHEAT_ISOLATE=tenant: an instance for each tenant, which answers no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preheat.errors import FailedStartError
from preheat.principals import new_key
from preheat.snapshot.forkserver import Template

from ...conftest import Server, serving
from .conftest import Instance, environ, template_of, until_ended


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Keys of two tenants, by their name; and under "file" where their digests lie."""
    made = {tenant: new_key() for tenant in ("acme", "beta")}
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({tenant: entry for tenant, (_, entry) in made.items()}))
    return {**{tenant: key for tenant, (key, _) in made.items()}, "file": str(file)}


def test_a_clone_answers_its_own_tenant_alone(
    filetype_artifact: Path, cache: Path, tmp_path: Path, keys: dict[str, str]
) -> None:
    made = environ(filetype_artifact, cache, PREHEAT_ISOLATE="tenant", PREHEAT_API_KEYS=keys["file"])
    with template_of(made, tmp_path / "log") as template:
        acme = Instance(template, PREHEAT_TENANT="key:acme")
        beta = Instance(template, PREHEAT_TENANT="key:beta")
        own = {"authorization": f"Bearer {keys['acme']}"}
        assert acme.ask(**own).status == 200
        refused = beta.ask(**own)
        assert (refused.status, json.loads(refused.body)["code"]) == (403, "forbidden")
        assert refused.headers["x-preheat-outcome"] == "rejected"
        assert acme.ask().status == 401
        assert beta.get("/docs", **own).status == 403
        assert acme.get("/v2/health/ready").status == 200  # a probe has no tenant


def test_a_clone_for_nobody_ends(
    filetype_artifact: Path, cache: Path, tmp_path: Path, keys: dict[str, str]
) -> None:
    made = environ(filetype_artifact, cache, PREHEAT_ISOLATE="tenant", PREHEAT_API_KEYS=keys["file"])
    log = tmp_path / "log"
    with template_of(made, log) as template:
        clone = Instance(template)
        assert until_ended(template, 1) == [(clone.clone.pid, 2)]
    assert "PREHEAT_ISOLATE=tenant wants an instance for each tenant" in log.read_text()


def test_a_deferred_request_is_taken_over_by_its_own_tenants_instance(
    filetype_artifact: Path, cache: Path, tmp_path: Path, keys: dict[str, str]
) -> None:
    ledger = f"sqlite:///{tmp_path / 'ledger'}"
    made = {"PREHEAT_API_KEYS": keys["file"], "PREHEAT_LEDGER": ledger, "PREHEAT_LEASE": "0.5"}
    acme = {"authorization": f"Bearer {keys['acme']}", "prefer": "respond-async"}
    body = {"content": "aGVsbG8gd29ybGQsIGhlbGxvIHdvcmxk"}
    slow = tmp_path / "app.py"
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    slow.write_text(
        "import time\nfrom preheat import Function\nfrom preheat.tasks.filetype import FileType\n\n\n"
        "class Slow(FileType):\n    def finish(self, outputs, inputs):\n        time.sleep(30)\n\n\n"
        "function = Function(__file__, task=Slow)\n"
    )
    with serving(slow, PREHEAT_TENANT="key:acme", PREHEAT_CACHE=str(cache), **made) as first:
        place = first.request("POST", "/predict", body, acme).headers["location"]
        first.process.kill()
    with serving(filetype_artifact, PREHEAT_TENANT="key:beta", PREHEAT_CACHE=str(cache), **made) as other:
        other.wait_ready()
        with pytest.raises(AssertionError, match="not answered"):
            _answered(other, place, acme, seconds=4)
    with serving(filetype_artifact, PREHEAT_TENANT="key:acme", PREHEAT_CACHE=str(cache), **made) as own:
        own.wait_ready()
        assert _answered(own, place, acme, seconds=20) == 200


def _answered(server: Server, place: str, headers: dict[str, str], *, seconds: float) -> int:
    import time

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = server.request("GET", place, headers={"authorization": headers["authorization"]}).status
        if status not in (202, 403):
            return status
        time.sleep(0.1)
    raise AssertionError("it was not answered")


def test_a_server_that_is_not_told_whose_it_is_does_not_start(filetype_artifact: Path, cache: Path) -> None:
    with serving(filetype_artifact, PREHEAT_CACHE=str(cache), PREHEAT_ISOLATE="tenant") as server:
        status, _, err = server.finish()
    assert (status, "PREHEAT_TENANT says whose" in err) == (2, True)
    with serving(filetype_artifact, PREHEAT_CACHE=str(cache), PREHEAT_TENANT="key:acme") as server:
        status, _, err = server.finish()
    assert (status, "nobody is authenticated" in err) == (2, True)


def test_a_template_alone_may_be_of_no_tenant(filetype_artifact: Path, cache: Path, tmp_path: Path) -> None:
    """And where nobody is authenticated, a clone cannot be of one."""
    with template_of(environ(filetype_artifact, cache), tmp_path / "log") as template:
        clone = Instance(template, PREHEAT_TENANT="key:acme")
        assert until_ended(template, 1) == [(clone.clone.pid, 2)]
        assert isinstance(template, Template)
        with pytest.raises(FailedStartError):
            Instance(template, PREHEAT_ISOLATE="tenant")
