"""The ``preheat`` command: each command is a plain function that loads what it needs when it is called.

Exit status: 0, 1 (it ran, and the answer is no), 2 (wrong use). Every PreheatError is one line on stderr, and
with ``--json`` an object on stdout too. Progress goes to stderr, results to stdout.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import PreheatError, UsageError

app = typer.Typer(
    help="Serverless inference that starts hot.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for a program.")]

_ClickError: Any = typer.BadParameter.__mro__[2]
"""click's ClickException, the base of every error in the arguments; typer carries its own copy of click."""


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def build(
    source: Annotated[str, typer.Argument(help="An ONNX file, or a Hugging Face model folder.")],
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="The artifact's folder.")],
    name: Annotated[str | None, typer.Option(help="The model's name in URLs. Default: from SOURCE.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="text_embedding, text_classification, image_classification, filetype or tensors. "
            "Default: what the model folder says; tensors for an ONNX file."
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="cold, balanced or warm: what the best variant is best at.")
    ] = "balanced",
    quantize: Annotated[
        str | None, typer.Option(help="int8: one more variant, refused when its answers drift.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest drift from the golden outputs, relative to their size.")
    ] = 1e-3,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON: what to warm up with, and to check against.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each variant is tried.")] = 5,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="VARIANT", help="Make only this variant beside portable; repeatable."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N", help="bytes, rank, elements, batch, sequence or nonfinite; repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build an artifact: every way to open the model, each tried, checked and measured."""
    from .build import build as build_artifact
    from .build import progress

    with progress.shown() as show:
        build_artifact(
            source,
            out,
            name=name,
            task=task,
            objective=objective,
            quantize=quantize,
            tolerance=tolerance,
            recipe=None if recipe is None else str(recipe),
            rounds=rounds,
            only=only or [],
            limits=_limits(limit or []),
            progress=show,
        )
    from .build.inspection import inspect as inspect_artifact
    from .build.tables import print_build

    found = inspect_artifact(out, hashed=False)
    _print(as_json, found.to_dict, lambda console: print_build(console, found))


@app.command()
def inspect(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The artifact's folder.")],
    as_json: Json = False,
) -> None:
    """Show what an artifact holds, what would run here, and whether its files are whole."""
    from .build.inspection import inspect as inspect_artifact
    from .build.tables import print_inspection

    found = inspect_artifact(folder)
    _print(as_json, found.to_dict, lambda console: print_inspection(console, found))
    if found.problems:
        raise typer.Exit(1)


@app.command()
def settings(as_json: Json = False) -> None:
    """List the environment variables that a server reads, their defaults and what they do."""
    from .build.settings_table import described, print_settings

    rows = described()
    _print(as_json, lambda: rows, lambda console: print_settings(console, rows))


@app.command()
def serve(
    target: Annotated[str, typer.Argument(help="An artifact folder, a store URL, or a function's app.py.")],
    port: Annotated[int | None, typer.Option(help="Default: PORT, else 8080.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: PREHEAT_HOST, else every address.")] = None,
) -> None:
    """Serve a target until Ctrl-C: the same process as `PREHEAT_ARTIFACT=TARGET python -m preheat.server`."""
    import os

    from .settings import Settings

    environ = {**os.environ, "PREHEAT_ARTIFACT": target}
    if port is not None:
        environ["PORT"] = str(port)
    if host is not None:
        environ["PREHEAT_HOST"] = host
    shown = Settings.from_environ(environ)
    sys.stderr.write(
        f"serving {target} on http://{shown.host}:{shown.port} (/docs, /coldstart); Ctrl-C ends it\n"
    )
    sys.stderr.flush()
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
    from .measure.tryout import tryout

    raise typer.Exit(tryout(target, files or [], report=report, as_json=as_json))


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
    as_json: Json = False,
) -> None:
    """Measure cold starts: from a fresh process to its first correct answer, phase by phase."""
    from .measure.commands import measure as run_measure

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
    )
    raise typer.Exit(status)


@app.command()
def rehearse(
    target: Annotated[str, typer.Argument(help="A function's app.py.")],
    clones: Annotated[int, typer.Option(min=2, help="Instances that are restored from the snapshot.")] = 20,
    as_json: Json = False,
) -> None:
    """Rehearse SnapStart: what a snapshot of this function breaks, and what its clones would share."""
    from .rehearse.commands import rehearse as run_rehearsal

    raise typer.Exit(run_rehearsal(target, clones=clones, as_json=as_json))


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN.json...", help="What `measure --json` printed.")],
    out: Annotated[str, typer.Option("-o", "--out", metavar="FILE", help="The page to write.")],
) -> None:
    """Draw measured cold starts: one self-contained HTML page."""
    from .measure.commands import report as write_report

    write_report(runs, out)


Location = Annotated[
    str, typer.Argument(metavar="STORE/NAME@WHICH", help="An alias, a version's first digits, or sha256:….")
]
Artifact = Annotated[
    str, typer.Argument(metavar="STORE/NAME", help="s3://bucket/prefix/name, or gs://, az://, file://.")
]
Sign = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Sign with this ed25519 private key: a PEM file."),
]
Alias = Annotated[str, typer.Option(metavar="ALIAS", help="The alias to change.")]
NewAlias = Annotated[
    str | None, typer.Option(metavar="ALIAS", help="Let this alias name it, once all of it is there.")
]


@app.command()
def publish(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The artifact's folder.")],
    location: Artifact,
    alias: NewAlias = None,
    sign: Sign = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read back what the store has already; send again what is not whole."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload what the store lacks of an artifact; run it again after a failure, nothing is sent twice."""
    from .publish import commands

    commands.publish(folder, location, alias=alias, sign=sign, verify=verify, as_json=as_json)


@app.command()
def pull(
    location: Location,
    out: Annotated[str, typer.Argument(metavar="DIR", help="The folder to write.")],
    as_json: Json = False,
) -> None:
    """Fetch a published artifact into a folder, verified, whole or not at all."""
    from .publish import commands

    commands.pull(location, out, as_json=as_json)


@app.command()
def ls(
    location: Annotated[str, typer.Argument(metavar="STORE[/NAME]", help="A store, or one artifact in it.")],
    as_json: Json = False,
) -> None:
    """List what a store holds: artifacts, versions, aliases."""
    from .publish import commands

    commands.ls(location, as_json=as_json)


@app.command()
def promote(location: Location, alias: Alias, sign: Sign = None, as_json: Json = False) -> None:
    """Let an alias name a published version."""
    from .publish import commands

    commands.promote(location, alias, sign=sign, as_json=as_json)


@app.command()
def rollback(location: Artifact, alias: Alias, sign: Sign = None, as_json: Json = False) -> None:
    """Let an alias name the version that it named before."""
    from .publish import commands

    commands.rollback(location, alias, sign=sign, as_json=as_json)


@app.command()
def export(
    location: Location,
    out: Annotated[str, typer.Argument(metavar="BUNDLE", help="The file to write: a tar.")],
    sign: Sign = None,
    as_json: Json = False,
) -> None:
    """Write a published version as one file, for where there is no network."""
    from .publish import commands

    commands.export(location, out, sign=sign, as_json=as_json)


@app.command("import")
def import_(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="What `preheat export` wrote.")],
    location: Artifact,
    alias: NewAlias = None,
    sign: Sign = None,
    as_json: Json = False,
) -> None:
    """Put a bundle into a store, every byte checked before anything is written there."""
    from .publish import commands

    commands.import_(bundle, location, alias=alias, sign=sign, as_json=as_json)


@app.command()
def gc(
    location: Annotated[str, typer.Argument(metavar="STORE", help="s3://bucket/prefix, above the names.")],
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Keep the newest N versions of each artifact, and what an alias names."),
    ] = None,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="Leave what is younger: it may be part of a publish under way.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove files that no version names, and with --keep old versions that no alias names."""
    from .publish import commands

    commands.gc(location, keep=keep, grace_hours=grace_hours, dry_run=dry_run, as_json=as_json)


@app.command()
def key(
    tenant: Annotated[str, typer.Argument(help="Who gets the key.")],
    as_json: Json = False,
) -> None:
    """Make an API key: the key for the tenant, and its entry for the file that PREHEAT_API_KEYS names."""
    from .principals import new_key, principal

    if not principal("key", tenant):
        raise UsageError("a tenant's name is 1 to 512 printable characters")
    made, entry = new_key()
    if as_json:
        sys.stdout.write(json.dumps({"tenant": tenant, "key": made, "entry": entry}) + "\n")
    else:
        sys.stdout.write(f"key, shown this once:  {made}\n")
        sys.stdout.write(f"entry for the file:    {json.dumps({tenant: entry}, ensure_ascii=False)}\n")


ledger_app = typer.Typer(no_args_is_help=True, help="The records of requests with an Idempotency-Key.")
app.add_typer(ledger_app, name="ledger")

LedgerUrl = Annotated[
    str | None,
    typer.Argument(
        metavar="[URL]",
        help="sqlite:///file, redis://, postgresql:// or dynamodb://table. Default: PREHEAT_LEDGER.",
    ),
]


@ledger_app.command("init")
def ledger_init(url: LedgerUrl = None, as_json: Json = False) -> None:
    """Make the table or schema of a ledger, or bring it up to date."""
    from .ledger import commands

    commands.init(url, as_json=as_json)


@ledger_app.command("check")
def ledger_check(url: LedgerUrl = None, as_json: Json = False) -> None:
    """Say what a ledger lacks, and what to do."""
    from .ledger import commands

    commands.check(url, as_json=as_json)


check = typer.Typer(
    help="Say before a deployment what will not fit, and what to change.", no_args_is_help=True
)
render = typer.Typer(help="Write a deployment from what the build measured.", no_args_is_help=True)
app.add_typer(check, name="check")
app.add_typer(render, name="render")

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
    from .deploy import commands
    from .deploy.fit import Plan

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
        str | None, typer.Option("-o", "--out", metavar="DIR", help="Write into this folder. Default: print.")
    ] = None,
    package: Package = "zip",
    python: Python = "3.12",
    architecture: Architecture = None,
    layers: Annotated[str, typer.Option(metavar="DIR", help="Where `make layers` wrote.")] = "out/layers",
) -> None:
    """Write a SAM template: sizes from measurements, SnapStart, alarms, the ledger's table, a bucket."""
    from .deploy import commands

    commands.render_sam(
        targets, out=out, package=package, python=python, architecture=architecture, layers=layers
    )


def _limits(texts: list[str]) -> dict[str, int | bool]:
    limits: dict[str, int | bool] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if value in ("true", "false"):
            limits[name] = value == "true"
        elif equals and value.isascii() and value.isdigit():
            limits[name] = int(value)
        else:
            raise UsageError(f"--limit takes NAME=N, a whole number (nonfinite: true or false), not {text!r}")
    return limits


def _print(as_json: bool, document: Callable[[], Any], table: Callable[[Any], None]) -> None:
    """A result on stdout, for a program or for a person."""
    if as_json:
        sys.stdout.write(json.dumps(document(), indent=1) + "\n")
        return
    from rich.console import Console

    table(Console())


def run(arguments: list[str] | None = None) -> int:
    """Run a command; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status = app(arguments, prog_name="preheat", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except PreheatError as error:
        return _fail(arguments, str(error), error.code, 2 if isinstance(error, UsageError) else 1)
    except _ClickError as error:
        message = error.format_message()  # empty where the help was shown instead
        return _fail(arguments, message, "usage", 2) if message else 2
    except (KeyboardInterrupt, typer.Abort):
        return _fail(arguments, "interrupted", "interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has gone; the interpreter would complain once more
        return 1


def _fail(arguments: list[str], message: str, code: str, status: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    if "--json" in arguments:
        sys.stdout.write(json.dumps({"error": message, "code": code}) + "\n")
    return status


def _terminated(number: int, frame: object) -> None:  # noqa: ARG001 - what a signal handler is given
    sys.exit(128 + number)  # unwinds the stack, so that what is half built is removed
