"""The main path: download -> compile -> warm-up, and the report of how long each took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from . import fingerprint
from .choice import Choice, choose, worse
from .download import Artifact, download
from .errors import EngineError, TrustError
from .phases import ColdStartReport, Phase, PhaseClock
from .settings import Settings
from .stores import Reference, Store

if TYPE_CHECKING:
    from .batching import Batcher
    from .engine import Engine
    from .tasks import Task


class Loaded(NamedTuple):
    """What a start leaves behind, ready to answer."""

    engine: Engine
    task: Task
    report: ColdStartReport
    concurrency: int
    """Requests that may run at once."""
    max_bytes: int
    """Largest request body, in bytes."""
    fallback: str | None
    """Why less runs than was built: ``portable``, or the CPU in place of a GPU; None where the best runs."""
    batcher: Batcher | None = None
    """Joins requests that wait at the same time; None where each runs alone."""
    artifact: Artifact | None = None
    """What it was opened from."""


def bootstrap(
    place: Store | Reference,
    settings: Settings,
    *,
    cache_dir: str,
    instance: str,
    clock: PhaseClock,
    task: type[Task] | None = None,
    platform: str = "process",
    deployment: Mapping[str, str] | None = None,
) -> Loaded:
    """Start an instance. ``task``: a class of the function's own, in place of the manifest's built-in one.
    ``deployment``: what the platform calls it, for the report.

    Raises ArtifactError or EngineError; the message names the file or variant and the cause.
    """
    artifact = _open(place, settings, cache_dir, clock)
    machine = fingerprint.machine()
    artifact.verify_ahead(likely_files(artifact, machine, settings))

    with clock.phase(Phase.IMPORT) as attributes:
        attributes["of"] = "numpy, onnxruntime, task"
        # Not at the top: these bring numpy, and verification should run beside their import, not after it.
        from . import arena
        from .batching import batcher
        from .compile import compile
        from .tasks import built_in
        from .warmup import warm

        machine = fingerprint.with_runtime(machine)
        task_class = task or built_in(artifact.manifest.task)
        _import(task_class.libraries)

    choice = _choose(artifact, machine, settings)
    sizes = {file.path: file.size for file in artifact.manifest.files}
    heaviest = max(sum(sizes[path] for path in variant.files) for variant in choice.variants)
    arena.hold(settings.memory_bytes, heaviest)
    threads = settings.threads or machine.cpus
    failures = dict(choice.refused)
    for variant in choice.variants:
        try:
            with clock.phase(Phase.COMPILE) as attributes:
                engine = compile(artifact, variant, threads=threads)
                ready_task = task_class(artifact)
                attributes.update(variant=variant.name, provider=variant.requires.provider, threads=threads)
            with clock.phase(Phase.WARMUP) as attributes:
                attributes.update(warm(engine, artifact))
            break
        except EngineError as error:
            failures[variant.name] = str(error)
            if variant is choice.variants[-1]:
                raise
    fallback = None
    if worse(artifact.manifest, engine.variant, failures):
        fallback = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    report = ColdStartReport(
        clock,
        instance=instance,
        platform=platform,
        facts={
            "artifact": {"name": artifact.manifest.name, "version": artifact.manifest.version},
            "variant": engine.variant.name,
            "provider": engine.variant.requires.provider,
            "threads": threads,
            "fallback": fallback,
            "cache": artifact.cached,
            "host": machine._asdict(),
            "deployment": dict(deployment or {}),
            **({"not_restored": settings.not_restored} if settings.not_restored else {}),
        },
    )
    return Loaded(
        engine,
        ready_task,
        report,
        concurrency=settings.concurrency or machine.cpus,
        max_bytes=settings.max_bytes or artifact.manifest.limits.bytes,
        fallback=fallback,
        batcher=batcher(engine, settings),
        artifact=artifact,
    )


def _open(place: Store | Reference, settings: Settings, cache_dir: str, clock: PhaseClock) -> Artifact:
    if isinstance(place, Reference):
        from .remote import open_remote  # a folder needs nothing of it

        return open_remote(place, settings, cache_dir=cache_dir, clock=clock)
    if settings.trust:
        raise TrustError(
            "PREHEAT_TRUST is set, and a folder carries no signature: name a signed artifact in a store"
        )
    return download(place, cache_dir=cache_dir, verify=settings.verify, clock=clock)


def _import(libraries: tuple[str, ...]) -> None:
    for library in libraries:
        try:
            __import__(library)
        except ModuleNotFoundError as missing:
            raise EngineError(
                f"the task needs {missing.name}, which is not installed: pip install 'preheat[text,image]'"
            ) from missing


def _choose(artifact: Artifact, machine: fingerprint.Fingerprint, settings: Settings) -> Choice:
    return choose(
        artifact.manifest,
        machine,
        objective=settings.objective,
        forced=settings.variant,
        provider=settings.require_provider,
    )


def likely_files(artifact: Artifact, machine: fingerprint.Fingerprint, settings: Settings) -> list[str]:
    """What the session will most likely open, told before onnxruntime is imported. Raises EngineError."""
    manifest = artifact.manifest
    best = _choose(artifact, machine, settings).variants[0]
    golden = [path for pair in manifest.golden for path in pair]
    return [*best.files, *manifest.assets.values(), *golden]
