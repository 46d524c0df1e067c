"""``preheat up``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..errors import UsageError
from .root import app, listening_at


@app.command()
def up(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...",
            help="app.py files, their folders, artifacts, store URLs. Default: functions/*/app.py.",
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Default: PORT, else 8080.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: PREHEAT_HOST, else 127.0.0.1.")] = None,
    start: Annotated[
        str,
        typer.Option(
            help="How instances start: fresh, fork (from a template), or criu (restored from a dump)."
        ),
    ] = "fresh",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests that one instance gets at once.")] = 32,
    target: Annotated[
        float | None,
        typer.Option(help="Requests in flight for each instance that is wanted. Default: 70 % of the above."),
    ] = None,
    least: Annotated[int, typer.Option("--min", min=0, help="Instances that always are.")] = 0,
    most: Annotated[int, typer.Option("--max", min=1, help="Instances of a function at most.")] = 8,
    stable_window: Annotated[
        float, typer.Option(min=0.1, help="Seconds that the concurrency is averaged over.")
    ] = 60.0,
    panic_window: Annotated[
        float, typer.Option(min=1, max=100, help="The panic window, as a percentage of the stable one.")
    ] = 10.0,
    panic_threshold: Annotated[
        float, typer.Option(min=110, max=1000, help="Percentage of what is ready at which panic begins.")
    ] = 200.0,
    grace: Annotated[
        float,
        typer.Option(min=0, help="Seconds that the last instance stays after a stable window of nothing."),
    ] = 30.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests of a function that may wait.")] = 256,
    start_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that an instance has to become ready.")
    ] = 60.0,
    memory: Annotated[int, typer.Option(min=0, help="MiB that an instance may take. 0: any.")] = 0,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs that an instance may use. 0: any.")] = 0.0,
    state: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where instances are noted. Default: XDG_RUNTIME_DIR, /tmp.")
    ] = "",
) -> None:
    """Bring functions up on this machine, each scaled from zero and back; a status page at /_preheat/."""
    from pathlib import Path

    from ..local import functions, gateway, records
    from ..local.limits import Limits
    from ..local.pool import KINDS, Options
    from ..local.scaling import UTILIZATION, Policy

    if start not in KINDS:
        raise UsageError(f"--start must be one of {', '.join(KINDS)}, not {start!r}")
    if target is not None and target <= 0:
        raise UsageError("--target must be above 0")
    if least > most:
        raise UsageError("--min must not be above --max")
    environ = listening_at(os.environ, port, host)
    own = gateway.settings_of(environ)
    policy = Policy(
        target=target if target is not None else concurrency * UTILIZATION,
        least=least,
        most=most,
        stable_s=stable_window,
        panic_percentage=panic_window,
        panic_threshold=panic_threshold,
        grace_s=grace,
    )
    options = Options(policy, start, concurrency, queue, start_timeout)
    found = functions.find(targets or [], environ)
    folder = Path(state) if state else records.default_folder(environ)
    raise typer.Exit(
        gateway.run(found, options, Limits(memory, cpus), host=own.host, port=own.port, state=folder)
    )
