"""Clones taken by the raw fork system call, as a snapshot would: nothing that must be one's own is
another's."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from .conftest import Instance, environ, spare_of, template_of, until_ended

CLONES = int(os.environ.get("CLONES", "250"))
"""``CLONES=1000`` takes more of them, for half a minute."""
APP = """
import os, random, secrets, ssl, tempfile, uuid
import numpy
from preheat import Function
from preheat.rehearse.raw_fork import raw_fork
from preheat.tasks.filetype import FileType

os.fork = raw_fork  # what the template calls: no handler of libc or of Python runs in the clone
random.random(), numpy.random.random(), tempfile.mktemp()


class Told(FileType):
    def finish(self, outputs, inputs):
        links = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if n != "0"
                 and os.path.lexists(f"/proc/self/fd/{n}")]
        return {
            "seeds": {
                "random": random.random(),
                "numpy": float(numpy.random.random()),
                "generator": float(numpy.random.default_rng().random()),
                "tempfile": tempfile.mktemp(),
            },
            "nonces": {
                "uuid4": str(uuid.uuid4()),
                "secrets": secrets.token_hex(16),
                "ssl": ssl.RAND_bytes(16).hex(),
                "system": random.SystemRandom().random(),
            },
            "report": function.service.current.report.id,
            "instance": function.service.instance,
            "sockets": [link for link in links if link.startswith("socket:")],
        }


function = Function(__file__, task=Told)
"""


def test_no_id_seed_nonce_or_socket_is_there_twice(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (tmp_path / "app.py").write_text(APP)
    seen: dict[str, list[object]] = {}
    with template_of(environ(tmp_path / "app.py", cache), tmp_path / "log") as template:
        spare_of(template)
        opened = len(os.listdir(f"/proc/{template.pid}/fd"))
        for index in range(CLONES):
            if index % 50 == 25:
                spare_of(template)  # the next one was forked before it was asked for
            clone = Instance(template)
            answer = clone.ask()
            assert answer.status == 200, (tmp_path / "log").read_text()[-2000:]
            told = json.loads(answer.body)
            assert told["instance"] == clone.clone.instance == answer.headers["x-preheat-instance"]
            assert len(told["sockets"]) >= 3  # its listener, its own pair
            for name, value in {**told["seeds"], **told["nonces"]}.items():
                seen.setdefault(name, []).append(value)
            for name in ("report", "instance"):
                seen.setdefault(name, []).append(told[name])
            seen.setdefault("sockets", []).extend(told["sockets"])
            clone.signal(signal.SIGKILL)
            clone.listener.close()
            assert until_ended(template, 1) == [(clone.clone.pid, -signal.SIGKILL)]
        spare_of(template)
        assert len(os.listdir(f"/proc/{template.pid}/fd")) == opened
        # What the template has open is no clone's.
        for name in os.listdir(f"/proc/{template.pid}/fd"):
            link = os.readlink(f"/proc/{template.pid}/fd/{name}")
            if link.startswith("socket:"):
                seen["sockets"].append(link)
    assert {name: len(values) - len(set(values)) for name, values in seen.items()} == dict.fromkeys(seen, 0)
    assert len(seen["instance"]) == CLONES
