"""``preheat measure``, ``rehearse``."""

from __future__ import annotations

from typing import Annotated

import typer

from .root import Json, app


@app.command()
def measure(
    target: Annotated[str, typer.Argument(help="An artifact folder, a store URL, or a function's app.py.")],
    rounds: Annotated[int, typer.Option(min=1, help="Fresh processes of each kind.")] = 10,
    floor: Annotated[
        bool, typer.Option("--floor", help="Start the least that could give the answer, in the same rounds.")
    ] = False,
    drop_caches: Annotated[
        bool, typer.Option("--drop-caches", help="Drop the page cache before each start.")
    ] = False,
    variant: Annotated[
        list[str] | None, typer.Option(help="Force this variant; repeatable, a row for each.")
    ] = None,
    report: Annotated[str | None, typer.Option(metavar="FILE", help="Write an HTML page too.")] = None,
    platform: Annotated[
        str, typer.Option(help="process: the server; lambda: the handler, under AWS's own emulator.")
    ] = "process",
    rie: Annotated[
        str, typer.Option(metavar="FILE", help="The Runtime Interface Emulator. Default: LAMBDA_RIE, PATH.")
    ] = "",
    start: Annotated[
        str, typer.Option(help="fresh, fork, criu; several with commas: a row for each, in the same rounds.")
    ] = "fresh",
    as_json: Json = False,
) -> None:
    """Measure cold starts: from a fresh process to its first correct answer, phase by phase."""
    from ..measure.commands import measure as run_measure

    status = run_measure(
        target,
        rounds=rounds,
        as_json=as_json,
        floor=floor,
        drop_caches=drop_caches,
        variants=variant or [],
        report=report,
        platform=platform,
        rie=rie,
        starts=start,
    )
    raise typer.Exit(status)


@app.command()
def rehearse(
    target: Annotated[str, typer.Argument(help="A function's app.py.")],
    clones: Annotated[int, typer.Option(min=2, help="Instances that are restored from the snapshot.")] = 20,
    as_json: Json = False,
) -> None:
    """Rehearse SnapStart: what a snapshot of this function breaks, and what its clones would share."""
    from ..rehearse.commands import rehearse as run_rehearsal

    raise typer.Exit(run_rehearsal(target, clones=clones, as_json=as_json))
