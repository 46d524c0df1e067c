"""The SQLite ledger where the file, the disk or the neighbours are at fault."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from preheat.errors import LedgerError
from preheat.ledger import Claimed, Ledger, Replay, open_ledger, sqlite

from ... import servers

LONG = {"lease": 30.0, "keep": 60.0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    found = open_ledger(f"sqlite:///{path}")
    yield found
    found.close()


def done(ledger: Ledger, key: str, outcome: bytes) -> None:
    assert isinstance(ledger.claim(key, "print", "one", **LONG), Claimed)
    assert ledger.commit(key, "one", outcome, keep=60) == outcome


FILL = """
import resource, sys
from preheat.errors import LedgerError
from preheat.ledger import open_ledger
ledger = open_ledger(sys.argv[1])
ledger.init()
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
kept = 0
try:
    for number in range(1000):
        ledger.claim(f"k{number}", "print", "one", lease=30, keep=60)
        assert ledger.commit(f"k{number}", "one", b"x" * 10_000, keep=60) is not None
        kept += 1
except LedgerError as error:
    print(kept, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ledger.claim("after", "print", "one", lease=30, keep=60)
assert ledger.commit("after", "one", b"room again", keep=60) == b"room again"
"""


def test_a_full_disk_is_told_and_keeps_what_was_acknowledged(path: Path, ledger: Ledger) -> None:
    filled = subprocess.run(
        [sys.executable, "-c", FILL, f"sqlite:///{path}"], capture_output=True, text=True, check=True
    )
    kept, _, words = filled.stdout.partition(" ")
    assert 5 < int(kept) < 1000
    assert "full" in words
    for number in range(int(kept)):
        assert ledger.claim(f"k{number}", "print", "two", **LONG) == Replay(b"x" * 10_000)
    assert ledger.claim("after", "print", "two", **LONG) == Replay(b"room again")
    ledger.check()


def test_a_file_that_may_not_be_written_is_told() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "ledger.db"
        maker = open_ledger(f"sqlite:///{path}")
        done(maker, "k", b"x")
        maker.close()
        path.chmod(0o444)
        os.chmod(folder, 0o555)
        says, heard = os.pipe()
        child = os.fork()
        if child == 0:
            words = b"it was used"
            try:
                if os.geteuid() == 0:
                    os.seteuid(servers.NOBODY)  # root may write what nobody may
                maker.claim("k", "print", "two", **LONG)
            except LedgerError as error:
                words = str(error).encode()
            finally:
                os.write(heard, words)
                os._exit(0)
        os.waitpid(child, 0)
        os.chmod(folder, 0o755)
        assert "may not be" in os.read(says, 10_000).decode()
        os.close(says)
        os.close(heard)


@pytest.mark.parametrize("place", ["/proc/ledger.db", "/dev/null/ledger.db", "/dev"])
def test_a_place_that_takes_no_file_is_told(place: str) -> None:
    with pytest.raises(LedgerError, match="cannot be"):
        open_ledger(f"sqlite:///{place}").init()


def test_a_file_that_is_something_else_is_told(path: Path, ledger: Ledger) -> None:
    path.write_bytes(b"not a database, " * 1000)
    with pytest.raises(LedgerError, match="no SQLite file"):
        ledger.claim("k", "print", "one", **LONG)
    assert path.read_bytes().startswith(b"not a database"), "somebody's file was overwritten"
    path.unlink()
    done(ledger, "k", b"x")


def test_a_damaged_file_is_told(path: Path, ledger: Ledger) -> None:
    for number in range(50):
        done(ledger, f"k{number}", b"x" * 3000)
    ledger.close()
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(path.stat().st_size - 8192))
    with pytest.raises(LedgerError, match="damaged"):
        ledger.check()
    with pytest.raises(LedgerError, match="damaged"):
        ledger.claim("k49", "print", "two", **LONG)


def test_a_schema_of_another_version_is_told(path: Path, ledger: Ledger) -> None:
    done(ledger, "k", b"x")
    ledger.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerError, match="schema 99"):
        ledger.claim("k", "print", "two", **LONG)


def test_an_older_schema_is_brought_up_to_date(path: Path, ledger: Ledger) -> None:
    done(ledger, "done", b"x")
    ledger.claim("held", "print", "one", **LONG, request=b"body")
    ledger.close()
    connection = sqlite3.connect(path)
    connection.execute("DROP INDEX records_expires")
    connection.execute("DROP INDEX records_pending")
    connection.execute("ALTER TABLE records DROP COLUMN until")
    connection.execute("CREATE INDEX records_expires ON records (expires)")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    code = "import sys; from preheat.ledger import open_ledger; open_ledger(sys.argv[1]).init()"
    openers = [subprocess.Popen([sys.executable, "-c", code, f"sqlite:///{path}"]) for _ in range(6)]
    assert [opener.wait(60) for opener in openers] == [0] * 6
    assert ledger.claim("done", "print", "two", **LONG) == Replay(b"x")
    assert ledger.heartbeat("held", "one", lease=30)
    ledger.check()
    connection = sqlite3.connect(path)
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE sql IS NOT NULL")}
    connection.close()
    assert names == {"records", "records_expires", "records_pending"}


def test_a_file_that_another_process_holds_is_told_and_then_used(
    path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_S", 0.3)
    done(ledger, "k", b"x")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="another process held it"):
        ledger.claim("k", "print", "two", **LONG)
    other.execute("COMMIT")
    other.close()
    assert ledger.claim("k", "print", "two", **LONG) == Replay(b"x")


def test_a_file_that_was_removed_is_not_written_any_more(path: Path, ledger: Ledger) -> None:
    done(ledger, "old", b"x")
    for name in path.parent.glob("ledger.db*"):
        name.unlink()
    done(ledger, "new", b"y")
    other = open_ledger(f"sqlite:///{path}")
    assert other.claim("new", "print", "two", **LONG) == Replay(b"y")
    other.close()


def test_an_outcome_outlives_the_boot_and_a_lease_does_not(path: Path, ledger: Ledger) -> None:
    done(ledger, "done", b"x")
    ledger.claim("held", "print", "one", lease=1e6, keep=60, request=b"body")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE records SET boot = 'another', lease = lease + 1e6, until = until + 1e6")
    connection.commit()
    connection.close()
    assert ledger.claim("done", "print", "two", **LONG) == Replay(b"x")
    assert [p.key for p in ledger.pending(5)] == ["held"]
    assert ledger.claim("held", "print", "two", **LONG) == Claimed("two", 2, b"body")


def test_many_processes_make_a_new_file_at_once(path: Path, ledger: Ledger) -> None:
    code = "import sys; from preheat.ledger import open_ledger; l = open_ledger(sys.argv[1])\n"
    code += "for i in range(20): l.claim(f'{sys.argv[2]} {i}', 'p', 'f', lease=30, keep=60)"
    makers = [
        subprocess.Popen([sys.executable, "-c", code, f"sqlite:///{path}", str(n)], stderr=subprocess.PIPE)
        for n in range(12)
    ]
    assert [(maker.communicate(timeout=60)[1], maker.returncode) for maker in makers] == [(b"", 0)] * 12
    assert all(ledger.read(f"{n} {i}") for n in range(12) for i in range(20))


def test_what_has_expired_is_removed_in_time(path: Path, ledger: Ledger) -> None:
    for number in range(100):
        ledger.claim(f"lapsed {number}", "print", "one", lease=0.001, keep=0.001)
        ledger.claim(f"done {number}", "print", "one", lease=0.001, keep=0.001)
        ledger.commit(f"done {number}", "one", b"x", keep=0.001)
    ledger.claim("live", "print", "one", lease=30, keep=0.001)
    for number in range(sqlite._PURGE_EVERY):
        ledger.claim(f"fresh {number}", "print", "one", **LONG)
    connection = sqlite3.connect(path)
    count = connection.execute("SELECT count(*) FROM records").fetchone()[0]
    connection.close()
    assert count == sqlite._PURGE_EVERY + 1
