"""Which variant runs on this machine; told from the manifest, before numpy and onnxruntime are there."""

from __future__ import annotations

from typing import NamedTuple

from .errors import ArtifactError, EngineError
from .fingerprint import Fingerprint
from .manifest import PORTABLE, Manifest, Variant

RUNS_AHEAD = 50
"""What "balanced" weighs: the start, the first answer, and this many that follow."""


NOISE = 1.05
"""Steady runs within this factor of the fastest count as equal: less than that, a planner cannot tell."""


class Choice(NamedTuple):
    variants: tuple[Variant, ...]
    """Those that this machine can open, best first."""
    refused: dict[str, str]
    """Those that rank above the first of them and cannot be opened here, each with its reason."""


def choose(
    manifest: Manifest, machine: Fingerprint, *, objective: str = "", forced: str = "", provider: str = ""
) -> Choice:
    """Rank the variants by what the planner measured, and keep those whose requirements hold.

    ``forced`` names the one variant to take; ``provider`` the one execution provider to accept. Raises
    ArtifactError or EngineError that says what cannot be had, and why.
    """
    if forced:
        only = manifest.variant(forced)
        if only is None:
            names = ", ".join(v.name for v in manifest.variants)
            raise ArtifactError(f"the artifact has no variant {forced!r}; it has {names}")
        reason = machine.refuses(only.requires)
        if reason:
            raise EngineError(f"variant {forced!r} cannot be opened here: {reason}")
        ranked = [only]
    else:
        ranked = rank(manifest, objective or manifest.objective)
    kept: list[Variant] = []
    refused: dict[str, str] = {}
    for variant in ranked:
        reason = machine.refuses(variant.requires)
        if provider and variant.requires.provider != provider:
            reason = f"runs on {variant.requires.provider}, and {provider} is required"
        if reason is None:
            kept.append(variant)
        elif not kept:
            refused[variant.name] = reason
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise EngineError(f"no variant can be opened on this machine: {reasons}")
    return Choice(tuple(kept), refused)


def rank(manifest: Manifest, objective: str) -> list[Variant]:
    """Variants by expected milliseconds under an objective, best first.

    Unmeasured variants come after the measured ones, ``portable`` after all of equal standing.
    """
    steadies = [manifest.measured(variant.name, "steady_ms") for variant in manifest.variants]
    fastest = min((steady for steady in steadies if steady is not None), default=0.0)

    def cost(variant: Variant) -> tuple[bool, float, float, bool]:
        figures = [manifest.measured(variant.name, f) for f in ("session_ms", "first_ms", "steady_ms")]
        if any(figure is None for figure in figures):
            return True, 0.0, 0.0, variant.name == PORTABLE
        session, first, steady = (float(figure) for figure in figures if figure is not None)
        if steady <= fastest * NOISE:
            steady = fastest
        start = session + first
        milliseconds = {"cold": start, "balanced": start + RUNS_AHEAD * steady, "warm": steady}[objective]
        return False, milliseconds, start, variant.name == PORTABLE

    return sorted(manifest.variants, key=cost)
