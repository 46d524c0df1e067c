"""``preheat load``, ``compare``, and ``report``, which draws what `measure` and `load` wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from .root import Json, app

Prices = Annotated[
    str | None, typer.Option("--prices", metavar="FILE", help="A table of instances' prices of your own.")
]
Memory = Annotated[int, typer.Option("--memory", help="MB, for what Lambda would cost.")]
Architecture = Annotated[str, typer.Option("--architecture", help="x86_64 or arm64, for the same.")]
Region = Annotated[str, typer.Option("--region", help="Whose prices of Lambda.")]


@app.command()
def load(
    scenario: Annotated[str, typer.Argument(help="A TOML file, or the name of one that comes along.")],
    target: Annotated[
        str, typer.Option("--target", metavar="URL", help="The scenario's paths come behind it.")
    ],
    out: Annotated[
        str,
        typer.Option("-o", "--out", metavar="RUN.jsonl", help="Every request, as it comes; - prints them."),
    ],
    cold: Annotated[
        str, typer.Option(metavar="HOW", help="up, lambda:FUNCTION:ALIAS, knative:NAMESPACE/SERVICE.")
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="Sent with each; never recorded.")
    ] = None,
    sign: Annotated[
        str, typer.Option(metavar="SERVICE:REGION", help="Sign for AWS IAM, such as lambda:us-east-1.")
    ] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes that send, as locust's workers.")] = 0,
    bind: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Wait there for workers that you start elsewhere.")
    ] = "",
    label: Annotated[str, typer.Option(help="What the report calls this run.")] = "",
    prices: Prices = None,
    memory: Memory = 1769,
    architecture: Architecture = "x86_64",
    region: Region = "us-east-1",
    as_json: Json = False,
) -> None:
    """Send a scenario's load to a target, and tell cold from warm."""
    from ..load import commands
    from ..load.cost import Lambda

    status = commands.load(
        scenario,
        target=target,
        out=out,
        cold=cold,
        headers=header or [],
        sign=sign,
        workers=workers,
        bind=bind,
        label=label,
        prices=prices,
        on_lambda=Lambda(memory, architecture, region),
        as_json=as_json,
    )
    raise typer.Exit(status)


@app.command()
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE.jsonl")],
    new: Annotated[str, typer.Argument(metavar="NEW.jsonl")],
    fail_above: Annotated[
        str, typer.Option("--fail-above", metavar="10%", help="How much slower a latency may be.")
    ] = "10%",
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail too where there are too few samples to decide.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hold a load test against an earlier one; exit status 1 where an interval lies past the limit."""
    from ..load import commands

    raise typer.Exit(commands.compare(base, new, above=fail_above, strict=strict, as_json=as_json))


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="What `measure --json` printed or `load` wrote.")
    ],
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FILE", help="Where the page goes; - prints it.")
    ],
    prices: Prices = None,
    memory: Memory = 1769,
    architecture: Architecture = "x86_64",
    region: Region = "us-east-1",
) -> None:
    """Draw load tests and measured cold starts: one self-contained HTML page."""
    from ..load import commands
    from ..load.cost import Lambda

    commands.report(runs, out, prices, Lambda(memory, architecture, region))
