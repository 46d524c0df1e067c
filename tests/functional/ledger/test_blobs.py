"""Outcomes and requests that are too large for a record."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest

from preheat.errors import LedgerError, SettingsError
from preheat.ledger import Claimed, Replay, open_ledger
from preheat.ledger.blobs import _MARK, Folder, WithBlobs

from ... import servers
from .conftest import Store

LONG = {"lease": 30.0, "keep": 60.0}
SMALL = 1000


def limited(store: Store, blobs: str) -> WithBlobs:
    """A ledger whose records take little, so that the tests need not write gigabytes."""
    ledger = store.open(blobs)
    assert isinstance(ledger, WithBlobs)
    ledger.ledger.limit = SMALL
    return ledger


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_large_ones_lie_beside_the_record(store: Store, tmp_path: Path, scheme: str) -> None:
    folder = tmp_path / "blobs"
    ledger = limited(store, f"{scheme}{folder}")
    request, outcome = os.urandom(50_000), os.urandom(1_000_000)
    assert ledger.claim("k", "print", "one", request=request, **LONG) == Claimed("one", 1, request)
    assert ledger.commit("k", "one", outcome, keep=60) == outcome
    assert ledger.commit("k", "one", outcome, keep=60) == outcome
    assert limited(store, str(folder)).claim("k", "print", "two", **LONG) == Replay(outcome)
    record = ledger.read("k")
    assert record is not None
    assert (record.outcome, record.request) == (outcome, request)
    assert ledger.cancel("k", "x", os.urandom(5000), keep=60) == outcome
    inner = ledger.ledger.read("k")
    assert inner is not None
    assert inner.outcome is not None
    assert len(inner.outcome) < 200
    assert len(list(folder.glob("*/*"))) == 3


def test_the_record_that_its_store_takes_needs_no_blob(store: Store) -> None:
    ledger = store.open()
    assert ledger.limit >= 190_000
    if store.kind == "dynamodb":  # what is said to fit does
        both = os.urandom(ledger.limit - 100)
        ledger.claim("x" * 1500, "print", "one", request=both, **LONG)
        assert ledger.commit("x" * 1500, "one", both, keep=60) == both


def test_without_a_place_a_large_outcome_is_refused(store: Store) -> None:
    ledger = limited(store, "")
    ledger.claim("k", "print", "one", **LONG)
    with pytest.raises(LedgerError, match="PREHEAT_LEDGER_BLOBS") as told:
        ledger.commit("k", "one", bytes(5000), keep=60)
    assert told.value.code == "ledger_too_large"
    assert ledger.commit("k", "one", b"small", keep=60) == b"small"


@pytest.mark.attack
def test_bytes_that_look_like_a_reference_are_not_one(store: Store, tmp_path: Path) -> None:
    ledger = limited(store, str(tmp_path / "blobs"))
    ledger.claim("large", "print", "one", **LONG)
    ledger.commit("large", "one", bytes(5000), keep=60)
    reference = ledger.ledger.read("large").outcome  # type: ignore[union-attr]
    assert reference is not None
    for number, bait in enumerate((reference, _MARK, _MARK + b"=", _MARK + b"=" + reference)):
        ledger.claim(f"k{number}", "print", "one", **LONG)
        assert ledger.commit(f"k{number}", "one", bait, keep=60) == bait
        assert ledger.claim(f"k{number}", "print", "two", **LONG) == Replay(bait)
        assert store.open().claim(f"k{number}", "print", "two", **LONG) == Replay(bait)


@pytest.mark.attack
@pytest.mark.parametrize("damage", ["changed", "cut", "longer", "gone"])
def test_a_blob_that_is_not_what_was_written_is_refused(store: Store, tmp_path: Path, damage: str) -> None:
    ledger = limited(store, str(tmp_path / "blobs"))
    ledger.claim("k", "print", "one", **LONG)
    ledger.commit("k", "one", os.urandom(5000), keep=60)
    (blob,) = (tmp_path / "blobs").glob("*/*")
    data = blob.read_bytes()
    if damage == "gone":
        blob.unlink()
    else:
        changed = {"changed": b"x" + data[1:], "cut": data[:-1], "longer": data + b"x"}[damage]
        blob.write_bytes(changed)
    words = "is not there" if damage == "gone" else "was changed"
    with pytest.raises(LedgerError, match=words):
        ledger.claim("k", "print", "two", **LONG)
    with pytest.raises(LedgerError, match=words):
        ledger.read("k")


def test_a_worker_without_the_place_says_what_it_lacks(store: Store, tmp_path: Path) -> None:
    ledger = limited(store, str(tmp_path / "blobs"))
    ledger.claim("k", "print", "one", **LONG)
    ledger.commit("k", "one", bytes(5000), keep=60)
    with pytest.raises(LedgerError, match="set PREHEAT_LEDGER_BLOBS"):
        store.open().claim("k", "print", "two", **LONG)


def test_a_place_that_cannot_be_written_commits_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")
    ledger = limited(store, str(tmp_path / "blobs"))
    ledger.claim("k", "print", "one", **LONG)
    with pytest.raises(LedgerError, match="cannot be kept"):
        ledger.commit("k", "one", bytes(5000), keep=60)
    assert ledger.read("k").outcome is None  # type: ignore[union-attr]


def test_folders_of_days_gone_by_are_removed(tmp_path: Path) -> None:
    for name in ("2001-01-01", "2099-01-01", "somebody's own"):
        (tmp_path / name).mkdir()
    Folder(str(tmp_path)).write("2098-01-01/x", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2098-01-01", "2099-01-01", "somebody's own"]


def test_blobs_in_an_object_store(
    dynamo_server: servers.DynamoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{dynamo_server.port}"  # moto serves S3 too
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/blobs", method="PUT")).close()
    store = Store("sqlite", f"sqlite:///{tmp_path}/ledger.db")
    ledger = limited(store, "s3://blobs/under/here")
    ledger.init()
    ledger.check()
    outcome = os.urandom(300_000)
    ledger.claim("k", "print", "one", **LONG)
    assert ledger.commit("k", "one", outcome, keep=60) == outcome
    other = limited(store, "s3://blobs/under/here/")
    assert other.claim("k", "print", "two", **LONG) == Replay(outcome)
    with pytest.raises(LedgerError, match="nowhere"):
        limited(store, "s3://nowhere/x").check()
    for opened in store.opened:
        opened.close()


@pytest.mark.parametrize("place", ["ftp://x", "s3://", "file://relative", "http://host/x"])
def test_a_place_that_is_none_is_told(place: str) -> None:
    with pytest.raises(SettingsError, match="PREHEAT_LEDGER_BLOBS"):
        open_ledger("sqlite:///x", blobs=place)
