"""A server and what it reads: ``preheat settings``, ``serve``, ``try``, ``key``."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from ..errors import UsageError
from .root import Json, app, listening_at, show


@app.command()
def settings(as_json: Json = False) -> None:
    """List the environment variables that a server reads, their defaults and what they do."""
    from ..build.settings_table import described, print_settings

    rows = described()
    show(as_json, lambda: rows, lambda console: print_settings(console, rows))


@app.command()
def serve(
    target: Annotated[str, typer.Argument(help="An artifact folder, a store URL, or a function's app.py.")],
    port: Annotated[int | None, typer.Option(help="Default: PORT, else 8080.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: PREHEAT_HOST, else every address.")] = None,
) -> None:
    """Serve a target until Ctrl-C: the same process as `PREHEAT_ARTIFACT=TARGET python -m preheat.server`."""
    import os

    from .. import manifest
    from ..server import FIRST_INHERITED, inherited_listener, listen
    from ..settings import Settings
    from ..stores import Reference, open_store

    environ = listening_at({**os.environ, "PREHEAT_ARTIFACT": target}, port, host)
    shown = Settings.from_environ(environ)
    # What cannot be served, and an address that cannot be had, are told before anything is said of serving.
    if not target.endswith(".py"):
        place = open_store(target)
        if not isinstance(place, Reference):
            place.read(manifest.FILENAME, manifest.MAX_BYTES)
    elif not os.path.isfile(target):
        raise UsageError(f"{target} does not exist")
    listener = inherited_listener(environ) or listen(shown.host, shown.port)
    at = f"http://{shown.host}:{listener.getsockname()[1]}"
    sys.stderr.write(f"serving {target} on {at} (/docs, /coldstart); Ctrl-C ends it\n")
    sys.stderr.flush()
    # The server takes the socket over; the process's number stays.
    os.dup2(listener.fileno(), FIRST_INHERITED)
    os.set_inheritable(FIRST_INHERITED, True)
    environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "preheat.server"], environ)  # noqa: S606


@app.command("try")
def try_out(
    target: Annotated[str, typer.Argument(help="An artifact folder, a store URL, or a function's app.py.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="What to send. Default: the recorded request."),
    ] = None,
    report: Annotated[str | None, typer.Option(metavar="FILE", help="Write the waterfall as HTML.")] = None,
    as_json: Json = False,
) -> None:
    """Start a target cold, ask it, and show the answers and where the time went."""
    from ..measure.tryout import tryout

    raise typer.Exit(tryout(target, files or [], report=report, as_json=as_json))


@app.command()
def key(
    tenant: Annotated[str, typer.Argument(help="Who gets the key.")],
    as_json: Json = False,
) -> None:
    """Make an API key: the key for the tenant, and its entry for the file that PREHEAT_API_KEYS names."""
    from ..principals import new_key, principal

    if not principal("key", tenant):
        raise UsageError("a tenant's name is 1 to 512 printable characters")
    made, entry = new_key()
    if as_json:
        sys.stdout.write(json.dumps({"tenant": tenant, "key": made, "entry": entry}) + "\n")
    else:
        sys.stdout.write(f"key, shown this once:  {made}\n")
        sys.stdout.write(f"entry for the file:    {json.dumps({tenant: entry}, ensure_ascii=False)}\n")
