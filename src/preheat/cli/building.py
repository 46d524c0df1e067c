"""``preheat build``, ``inspect`` and ``sbom``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import output
from ..errors import ArtifactError, UsageError
from .root import Json, app, show


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
    provider: Annotated[
        str | None, typer.Option(help="cuda or tensorrt: variants for this machine's GPU too.")
    ] = None,
    timing_cache: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="What TensorRT's build begins with: a timing cache, an artifact that has one, or none. "
            "Default: the artifact that is replaced.",
        ),
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
    from ..build import build as build_artifact
    from ..build import progress

    with progress.shown() as told:
        build_artifact(
            source,
            out,
            name=name,
            task=task,
            objective=objective,
            quantize=quantize,
            provider=provider,
            timings=timing_cache,
            tolerance=tolerance,
            recipe=None if recipe is None else str(recipe),
            rounds=rounds,
            only=only or [],
            limits=_limits(limit or []),
            progress=told,
        )
    from ..build.inspection import inspect as inspect_artifact
    from ..build.tables import print_build

    found = inspect_artifact(out, hashed=False)
    show(as_json, found.to_dict, lambda console: print_build(console, found))


@app.command()
def inspect(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The artifact's folder.")],
    as_json: Json = False,
) -> None:
    """Show what an artifact holds, what would run here, and whether its files are whole."""
    from ..build.inspection import inspect as inspect_artifact
    from ..build.tables import print_inspection

    found = inspect_artifact(folder)
    show(as_json, found.to_dict, lambda console: print_inspection(console, found))
    if found.problems:
        raise typer.Exit(1)


@app.command()
def sbom(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The artifact's folder.")],
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FILE", help="Where it goes; - prints it.")
    ] = output.STDOUT,
) -> None:
    """Print an artifact's bill of materials: CycloneDX, with its source, its files and what built it."""
    from ..build.inspection import inspect as inspect_artifact
    from ..build.materials import bill

    found = inspect_artifact(folder)
    if found.problems:
        raise ArtifactError(f"{folder} is not what its manifest says: {found.problems[0]}")
    text = bill(found.manifest)
    output.write(out, text)


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
