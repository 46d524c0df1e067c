"""Which variant runs on this machine; told from the manifest, before numpy and onnxruntime are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .errors import ArtifactError, EngineError
from .fingerprint import Fingerprint
from .manifest import PORTABLE, Manifest, Variant
from .providers import full_name, preference

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

    ``forced`` names the one variant to take; ``provider`` the one execution provider to accept, by its own or
    its short name. Raises ArtifactError or EngineError that says what cannot be had, and why.
    """
    provider = full_name(provider)
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
    unwanted: dict[str, str] = {}
    for variant in ranked:
        reason = machine.refuses(variant.requires)
        if provider and variant.requires.provider != provider:
            unwanted[variant.name] = f"runs on {variant.requires.provider}, and {provider} is required"
        elif reason is None:
            kept.append(variant)
        elif not kept:
            refused[variant.name] = reason
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (refused | unwanted).items())
        raise EngineError(f"no variant can be opened on this machine: {reasons}")
    return Choice(tuple(kept), refused)


def worse(manifest: Manifest, variant: Variant, failures: Mapping[str, str]) -> bool:
    """Whether a variant is less than what the artifact was built for, given those that failed before it:
    ``portable`` in place of any, or another provider than the best of them."""
    missed = [other for other in manifest.variants if other.name in failures]
    own = preference(variant.requires.provider)
    return any(variant.name == PORTABLE or preference(other.requires.provider) < own for other in missed)


def rank(manifest: Manifest, objective: str) -> list[Variant]:
    """Variants by provider (TensorRT, CUDA, the CPU), then by expected milliseconds under an objective, best
    first: who pays for a GPU wants it used, although a session opens sooner on the CPU.

    Unmeasured variants come after the measured ones, ``portable`` after all of equal standing.
    """
    fastest: dict[str, float] = {}
    for variant in manifest.variants:
        steady = manifest.measured(variant.name, "steady_ms")
        if steady is not None:
            provider = variant.requires.provider
            fastest[provider] = min(steady, fastest.get(provider, steady))

    def cost(variant: Variant) -> tuple[int, bool, float, float, bool]:
        provider = variant.requires.provider
        figures = [manifest.measured(variant.name, f) for f in ("session_ms", "first_ms", "steady_ms")]
        if any(figure is None for figure in figures):
            return preference(provider), True, 0.0, 0.0, variant.name == PORTABLE
        session, first, steady = (float(figure) for figure in figures if figure is not None)
        if steady <= fastest[provider] * NOISE:
            steady = fastest[provider]
        start = session + first
        milliseconds = {"cold": start, "balanced": start + RUNS_AHEAD * steady, "warm": steady}[objective]
        return preference(provider), False, milliseconds, start, variant.name == PORTABLE

    return sorted(manifest.variants, key=cost)
