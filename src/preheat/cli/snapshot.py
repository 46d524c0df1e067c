"""Snapshots by CRIU: ``preheat snapshot create``, ``preheat snapshot restore``."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from .root import Json, app, listening_at

snapshot_app = typer.Typer(help="Dump a warmed process with CRIU, and restore it.", no_args_is_help=True)
app.add_typer(snapshot_app, name="snapshot")


@snapshot_app.command()
def create(
    target: Annotated[str, typer.Argument(help="An artifact folder, a store URL, or a function's app.py.")],
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="A new folder for the snapshot.")],
    as_json: Json = False,
) -> None:
    """Start a target, warm it, run its before-hooks, and dump the process. PREHEAT_ settings go with it."""
    import shlex

    from ..snapshot import criu, dump

    made = dump.create(target, out, os.environ)
    if as_json:
        sys.stdout.write(json.dumps(made, indent=1) + "\n")
        return
    sys.stdout.write(
        f"{out}: {made['artifact']['name']}, variant {made['variant']}, "
        f"{made['bytes'] / 1e6:.1f} MB of images\n"
        f"restore it with: {shlex.join(criu.command(out))}\n"
    )


@snapshot_app.command()
def restore(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="What `preheat snapshot create` made.")],
    port: Annotated[int | None, typer.Option(help="Default: PORT, else 8080.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: PREHEAT_HOST, else every address.")] = None,
) -> None:
    """Restore a snapshot and serve: `python -IS DIR/restore.py` does the same, and comes up sooner.

    Where that cannot be done here, the server starts fresh, and its report says why."""
    from ..snapshot import criu

    criu.read(folder)  # else there is nothing to run
    environ = listening_at(os.environ, port, host)
    sys.stderr.flush()
    os.execve(sys.executable, criu.command(folder), environ)  # noqa: S606
