"""Which variant runs on this machine; told from the manifest, before numpy and onnxruntime are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .errors import ArtifactError, EngineError
from .fingerprint import Fingerprint
from .manifest import PORTABLE, Manifest, Variant
from .providers import CPU, full_name, preference

RUNS_AHEAD = 50
"""What "balanced" weighs: the start, the first answer, and this many that follow."""


NOISE = 1.05
"""Steady runs within this factor of the fastest count as equal: less than that, a planner cannot tell."""


SOONER, SAVED_MS, FASTER = 0.75, 40.0, 0.9
"""Two sessions pay where the first answer comes at no more than this share of the other's time, so many
milliseconds sooner, and the other one's steady runs take no more than this share of the first one's."""


class Choice(NamedTuple):
    variants: tuple[Variant, ...]
    """Those that this machine can open, best first."""
    refused: dict[str, str]
    """Those that rank above the first of them and cannot be opened here, each with its reason."""
    successor: Variant | None = None
    """What takes over from the first of them while that one answers; None for none."""


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


def tiered(choice: Choice, manifest: Manifest, *, thresholds: bool) -> Choice:
    """The choice as it is where one variant answers first and another takes over: the one whose first answer
    comes soonest before all others, the one that runs fastest as its successor.

    On the CPU alone: a GPU's memory would have to hold both. Unchanged where no two differ so, or with
    ``thresholds`` not by enough.
    """
    if choice.variants[0].requires.provider != CPU:
        return choice
    measured = {}
    for variant in choice.variants:
        figures = _milliseconds(manifest, variant)
        if figures is not None:
            measured[variant.name] = figures
    if not measured:
        return choice
    first = next(v.name for v in rank(manifest, "cold") if v.name in measured)
    successor = next(v for v in rank(manifest, "warm") if v.name in measured)
    (start, steady), (start_after, steady_after) = measured[first], measured[successor.name]
    pays = start < start_after and steady_after < steady
    if thresholds:
        pays = start <= start_after * SOONER and start + SAVED_MS <= start_after
        pays = pays and steady_after <= steady * FASTER
    if not pays:
        return choice
    ordered = sorted(choice.variants, key=lambda variant: variant.name != first)
    return choice._replace(variants=tuple(ordered), successor=successor)


def _milliseconds(manifest: Manifest, variant: Variant) -> tuple[float, float] | None:
    """To the first answer, and of a run from then on; None where they were not measured."""
    session, first, steady = (
        manifest.measured(variant.name, f) for f in ("session_ms", "first_ms", "steady_ms")
    )
    return None if session is None or first is None or steady is None else (session + first, steady)


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
        figures = _milliseconds(manifest, variant)
        if figures is None:
            return preference(provider), True, 0.0, 0.0, variant.name == PORTABLE
        start, steady = figures
        if steady <= fastest[provider] * NOISE:
            steady = fastest[provider]
        milliseconds = {"cold": start, "balanced": start + RUNS_AHEAD * steady, "warm": steady}[objective]
        return preference(provider), False, milliseconds, start, variant.name == PORTABLE

    return sorted(manifest.variants, key=cost)
