"""An answer that is cut at any byte is no answer: the call is repeated, and gives what the store has."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from preheat.ledger import Replay, new_fence, open_ledger

from .. import servers
from .torture import SERVERS, STORES

KEEP = 100.0


class Tear:
    """A proxy that ends the connection after so many bytes of an answer, where it is told to."""

    def __init__(self, port: int) -> None:
        self.after: int | None = None
        self.last = 0
        """How long the last whole answer was."""
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as store:
            threading.Thread(target=self._forward, args=(client, store), daemon=True).start()
            length = 0
            with contextlib.suppress(OSError):
                while piece := store.recv(1 << 16):
                    after = self.after
                    if after is not None and length + len(piece) > after:
                        self.after = None
                        client.sendall(piece[: max(after - length, 0)])
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    client.sendall(piece)
                    length = 0 if after is None else length + len(piece)
                    self.last = len(piece)

    def _forward(self, client: socket.socket, store: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(1 << 16):
                store.sendall(piece)
            store.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(params=[name for name in STORES if name != "sqlite"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[servers._Process]:
    server = SERVERS[request.param](tmp_path / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_cut_at_every_byte(server: servers._Process, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    tear = Tear(server.port)
    ledger = open_ledger(server.url.replace(f":{server.port}", f":{tear.port}"))
    ledger.init()
    fence, outcome = new_fence(), b"an outcome"
    ledger.claim("key", "f", fence, lease=60, keep=KEEP)
    assert ledger.commit("key", fence, outcome, keep=KEEP) == outcome
    for ask in ("claim", "read", "commit"):
        for cut in range(0, 700, 13):
            if cut % 3 == 0:
                ledger.close()  # what is cut is the beginning of a new connection
            tear.after = cut
            if ask == "claim":
                assert ledger.claim("key", "f", new_fence(), lease=60, keep=KEEP) == Replay(outcome), cut
            elif ask == "read":
                record = ledger.read("key")
                assert record is not None, cut
                assert record.outcome == outcome, cut
            else:
                assert ledger.commit("key", new_fence(), b"another", keep=KEEP) == outcome, cut
            if tear.after is not None:
                break  # the answers are shorter
        tear.after = None
    ledger.close()
    tear.close()
