"""Two S3 servers in processes of their own, on loopback: moto's, and rclone's."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from preheat.measure.client import free_port

BUCKET = "bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class Endpoint(NamedTuple):
    """A server as a client sees it."""

    url: str

    @property
    def environ(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def at(self, path: str) -> str:
        """A place in the bucket that nobody else uses: ``path`` must be the test's own."""
        return f"s3://{BUCKET}/{path}"


@contextlib.contextmanager
def moto() -> Iterator[Endpoint]:
    """It answers ranges with 206, and honours conditions on writes."""
    port = free_port()
    serve = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(serve, port):
        url = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")).close()
        yield Endpoint(url)


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[Endpoint]:
    """It answers ranges with 200, and ignores conditions on writes."""
    (folder / BUCKET).mkdir(parents=True)
    port = free_port()
    program = str(Path(sysconfig.get_path("scripts")) / "rclone")
    with _running([program, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"], port):
        yield Endpoint(f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, f"{command[0]} ended with status {process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} never opened its port"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)
