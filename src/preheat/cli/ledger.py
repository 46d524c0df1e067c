"""``preheat ledger init`` and ``check``."""

from __future__ import annotations

from typing import Annotated

import typer

from .root import Json, app

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
    from ..ledger import commands

    commands.init(url, as_json=as_json)


@ledger_app.command("check")
def ledger_check(url: LedgerUrl = None, as_json: Json = False) -> None:
    """Say what a ledger lacks, and what to do."""
    from ..ledger import commands

    commands.check(url, as_json=as_json)
