"""``preheat plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from .root import Json, app


@app.command()
def plan(
    target: Annotated[
        str, typer.Argument(help="An artifact folder, a function's app.py, or STORE/NAME@WHICH.")
    ],
    rate: Annotated[
        str, typer.Option(metavar="RPS|TRACE", help="Requests a second, or a file of timestamps.")
    ],
    objective: Annotated[
        list[str], typer.Option(metavar="p99=500ms", help="A latency not to be exceeded; repeatable.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLATFORM:KEY=VALUE,...",
            help="Compare this, as lambda:provisioned=2 or knative:min=1,concurrency=4; repeatable. "
            "Default: the usual ones of Lambda, Cloud Run and Knative.",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="RUN.json", help="What `measure --json` printed, for the starts.")
    ] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Of a warm request. Default: as measured.")] = None,
    requests: Annotated[int, typer.Option(help="How many are simulated at most, of a rate.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="The same one gives the same figures.")] = 1,
    architecture: Annotated[
        str | None,
        typer.Option(metavar="ARCH", help="x86_64 or arm64. Default: what the artifact was built on."),
    ] = None,
    region: Annotated[str, typer.Option(help="Whose prices, on Lambda.")] = "us-east-1",
    prices: Annotated[str | None, typer.Option(metavar="FILE", help="Lambda's prices, of your own.")] = None,
    platforms: Annotated[
        str | None, typer.Option(metavar="FILE", help="What is known of the platforms, and their prices.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Write a decision record, in Markdown; - prints it."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what each way to run a target would give for a traffic, and cost: the cheapest that will do."""
    from ..plan import commands

    status = commands.plan(
        target,
        rate=rate,
        objective=objective,
        named=options or [],
        requests=requests,
        seed=seed,
        run=run,
        latency_ms=latency_ms,
        architecture=architecture,
        region=region,
        prices=prices,
        platforms_path=platforms,
        out=out,
        as_json=as_json,
    )
    raise typer.Exit(status)
