"""``preheat check``, ``preheat render`` and ``preheat deploy``, each a group: one command a platform."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import output
from .root import Json, app

check = typer.Typer(
    help="Say before a deployment what will not fit, and what to change.", no_args_is_help=True
)
render = typer.Typer(help="Write a deployment from what the build measured.", no_args_is_help=True)
deploy = typer.Typer(help="Put a rendered deployment into place, with care.", no_args_is_help=True)
app.add_typer(check, name="check")
app.add_typer(render, name="render")
app.add_typer(deploy, name="deploy")

Architecture = Annotated[
    str | None, typer.Option(metavar="ARCH", help="x86_64 or arm64. Default: what the artifact was built on.")
]
Python = Annotated[str, typer.Option(metavar="RELEASE", help="The function's Python.")]
Package = Annotated[str, typer.Option(help="zip (with the layers) or image.")]


@check.command("lambda")
def check_lambda(
    target: Annotated[
        str, typer.Argument(help="An artifact folder, a function's app.py, or STORE/NAME@WHICH.")
    ],
    architecture: Architecture = None,
    package: Package = "zip",
    python: Python = "3.12",
    memory: Annotated[int | None, typer.Option(min=1, help="MB. Default: what the model needs.")] = None,
    timeout: Annotated[int | None, typer.Option(min=1, help="Seconds. Default: as measured.")] = None,
    ephemeral_storage: Annotated[int, typer.Option(help="MB of /tmp.")] = 512,
    snapstart: Annotated[bool, typer.Option(help="Whether versions are published with SnapStart.")] = True,
    provisioned: Annotated[
        int, typer.Option(help="Provisioned instances. 0: none; as many as the rate needs in the costs.")
    ] = 0,
    efs: Annotated[bool, typer.Option("--efs", help="The function mounts a file system.")] = False,
    qualifier: Annotated[str, typer.Option(help="The alias or version that is invoked.")] = "live",
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="ZIP", help="A layer as it was built; repeatable. Default: assumed sizes."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="RUN.json", help="What `measure --json` printed, for the init.")
    ] = None,
    requests_per_second: Annotated[float, typer.Option(help="For the costs.")] = 1.0,
    latency_ms: Annotated[
        float | None, typer.Option(help="Of a warm request, for the costs. Default: as measured.")
    ] = None,
    region: Annotated[str, typer.Option(help="Whose prices.")] = "us-east-1",
    prices: Annotated[str | None, typer.Option(metavar="FILE", help="A price table of your own.")] = None,
    as_json: Json = False,
) -> None:
    """Check a target against AWS Lambda's limits, and count what cold starts cost in a month."""
    from ..deploy import commands
    from ..deploy.fit import Plan

    plan = Plan(
        "",
        package=package,
        python=python,
        memory_mb=memory or 0,
        timeout_s=timeout or 0,
        ephemeral_mb=ephemeral_storage,
        snapstart=snapstart,
        provisioned=provisioned,
        efs=efs,
        qualifier=qualifier,
        layers=tuple(layer or ()),
    )
    status = commands.check_lambda(
        target,
        plan,
        architecture=architecture,
        rate=requests_per_second,
        latency_ms=latency_ms,
        region=region,
        prices=prices,
        run=run,
        as_json=as_json,
    )
    raise typer.Exit(status)


@render.command("sam")
def render_sam(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="TARGET...", help="Functions' app.py, artifact folders, STORE/NAME@WHICH."),
    ],
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="DIR", help="The folder that it goes into; - prints it.")
    ] = output.STDOUT,
    package: Package = "zip",
    python: Python = "3.12",
    architecture: Architecture = None,
    layers: Annotated[str, typer.Option(metavar="DIR", help="Where `make layers` wrote.")] = "out/layers",
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Write a SAM template: sizes from measurements, SnapStart, alarms, the ledger's table, a bucket."""
    from ..deploy import commands

    commands.render_sam(
        targets,
        out=out,
        package=package,
        python=python,
        architecture=architecture,
        layers=layers,
        force=force,
    )
