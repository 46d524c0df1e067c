"""The command without its commands: what is said of it, and what each of them takes or prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Serverless inference that starts hot.",
    epilog="Where -o names a file, its folder is made and what was there is replaced; - is standard output.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for a program.")]


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def listening_at(environ: Mapping[str, str], port: int | None, host: str | None) -> dict[str, str]:
    """An environment whose server listens there; what is None stays as it was."""
    given = {"PORT": None if port is None else str(port), "PREHEAT_HOST": host}
    return {**environ, **{name: value for name, value in given.items() if value is not None}}


def show(as_json: bool, document: Callable[[], Any], table: Callable[[Any], None]) -> None:
    """A result on stdout, for a program or for a person."""
    if as_json:
        sys.stdout.write(json.dumps(document(), indent=1) + "\n")
        return
    from rich.console import Console

    table(Console())
