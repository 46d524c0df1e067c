"""Artifacts in a store: ``preheat publish``, ``pull``, ``ls``, ``promote``, ``rollback``, ``gc``, bundles."""

from __future__ import annotations

from typing import Annotated

import typer

from .root import Json, app

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
    from ..publish import commands

    commands.publish(folder, location, alias=alias, sign=sign, verify=verify, as_json=as_json)


@app.command()
def pull(
    location: Location,
    out: Annotated[str, typer.Argument(metavar="DIR", help="The folder to write.")],
    as_json: Json = False,
) -> None:
    """Fetch a published artifact into a folder, verified, whole or not at all."""
    from ..publish import commands

    commands.pull(location, out, as_json=as_json)


@app.command()
def ls(
    location: Annotated[str, typer.Argument(metavar="STORE[/NAME]", help="A store, or one artifact in it.")],
    as_json: Json = False,
) -> None:
    """List what a store holds: artifacts, versions, aliases."""
    from ..publish import commands

    commands.ls(location, as_json=as_json)


@app.command()
def promote(location: Location, alias: Alias, sign: Sign = None, as_json: Json = False) -> None:
    """Let an alias name a published version."""
    from ..publish import commands

    commands.promote(location, alias, sign=sign, as_json=as_json)


@app.command()
def rollback(location: Artifact, alias: Alias, sign: Sign = None, as_json: Json = False) -> None:
    """Let an alias name the version that it named before."""
    from ..publish import commands

    commands.rollback(location, alias, sign=sign, as_json=as_json)


@app.command()
def export(
    location: Location,
    out: Annotated[str, typer.Argument(metavar="BUNDLE", help="The file to write: a tar.")],
    sign: Sign = None,
    as_json: Json = False,
) -> None:
    """Write a published version as one file, for where there is no network."""
    from ..publish import commands

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
    from ..publish import commands

    commands.import_(bundle, location, alias=alias, sign=sign, as_json=as_json)


@app.command()
def gc(
    location: Annotated[str, typer.Argument(metavar="STORE", help="s3://bucket/prefix, above the names.")],
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Keep each artifact's newest N versions, and what an alias names or would roll back to.",
        ),
    ] = None,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="Leave what is younger: it may be part of a publish under way.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove files that no version names, and with --keep old versions that no alias names."""
    from ..publish import commands

    commands.gc(location, keep=keep, grace_hours=grace_hours, dry_run=dry_run, as_json=as_json)
