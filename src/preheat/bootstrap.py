"""The main path: download -> compile -> warm-up, and the report of how long each took."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from . import fingerprint
from .choice import Choice, choose, tiered, worse
from .download import Artifact, download
from .errors import EngineError, TrustError
from .manifest import Manifest, Variant
from .phases import ColdStartReport, Phase, PhaseClock
from .providers import NVIDIA
from .settings import Settings
from .stores import Reference, Store

if TYPE_CHECKING:
    from .batching import Batcher
    from .device_weights import Ahead
    from .engine import Engine
    from .tasks import Task


CPU_WITH_REQUESTS = ("lambda", "cloudrun")
"""Platforms that take the CPU away between requests: what runs beside them runs at their expense."""
HEADROOM = 1.25
"""Memory that there must be for a second session, in terms of its measured peak. The first one's weights are
mapped, and what is left of it is small beside that."""


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
    threads: int = 1
    """Of the session."""
    successor: Variant | None = None
    """What is to take over from the engine, beside its first answers."""
    beside: str = ""
    """The name of the function's own model, where this is a further one; empty for the function's own."""

    @property
    def scope(self) -> str:
        """How the fingerprints of its requests begin: functions may share a ledger, and none can answer for
        another, a further model not for the function whose own it is: /predict means other models to them."""
        name = self.engine.manifest.name
        return f"{self.beside}/{name}:" if self.beside else f"{name}:"


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
    room: Callable[[Manifest, Variant], None] | None = None,
    early: Callable[[Loaded | None], None] | None = None,
) -> Loaded:
    """Start an instance. ``task``: a class of the function's own, in place of the manifest's built-in one.
    ``deployment``: what the platform calls it, for the report. ``room``: told of the variant that is to be
    opened, before its session is (its files may be on their way, and with PREHEAT_DEVICE_AHEAD its device
    memory is taken); what it raises ends the start. ``early``: given a session that is being proved, where
    another is to take over and runs of this one take long; nothing that comes of it may be told before it is
    what this returns. Then None, where it is refused.

    Raises ArtifactError or EngineError; the message names the file or variant and the cause.
    """
    artifact = _open(place, settings, cache_dir, clock)
    ahead: Ahead | None = None
    try:
        machine = fingerprint.machine()
        artifact.verify_ahead(likely_files(artifact, machine, settings, platform))
        ahead = _ahead(artifact, machine, settings, platform)
        known = deployment or {}
        return _start(artifact, machine, ahead, settings, instance, clock, task, platform, known, room, early)
    except Exception:  # a further model may be tried again and again; a signal ends the process
        if ahead is not None:
            ahead.close()
        artifact.close()
        raise


def _start(
    artifact: Artifact,
    machine: fingerprint.Fingerprint,
    ahead: Ahead | None,
    settings: Settings,
    instance: str,
    clock: PhaseClock,
    task: type[Task] | None,
    platform: str,
    deployment: Mapping[str, str],
    room: Callable[[Manifest, Variant], None] | None,
    early: Callable[[Loaded | None], None] | None,
) -> Loaded:
    """The phases after the download. What it raises makes the caller close ``artifact`` and ``ahead``."""
    with clock.phase(Phase.IMPORT) as attributes:
        attributes["of"] = "numpy, onnxruntime"
        # Not at the top: these bring numpy, and verification should run beside their import, not after it.
        from .numpy_import import import_numpy  # isort: skip - before whatever else imports it

        import_numpy()
        from . import arena
        from .batching import batcher
        from .compile import compile  # noqa: F401 - loaded here, for the thread that opens
        from .tasks import built_in
        from .warmup import warm  # noqa: F401 - as compile

        machine = fingerprint.with_runtime(machine)
        task_class = task or built_in(artifact.manifest.task)

    choice = _choose(artifact, machine, settings, platform)
    if room is not None:
        room(artifact.manifest, choice.variants[0])
    arena.hold(settings.memory_bytes, max(map(artifact.manifest.weight_bytes, choice.variants)))
    threads = settings.threads or machine.cpus
    concurrency = settings.concurrency or machine.cpus
    max_bytes = settings.max_bytes or artifact.manifest.limits.bytes
    failures = dict(choice.refused)
    engine: Engine | None = None
    ready_task: Task | None = None
    for variant in choice.variants:
        try:
            opening = _Opening(artifact, variant, threads, ahead, clock)
            try:
                if ready_task is None:
                    with clock.phase(Phase.IMPORT) as attributes:
                        attributes["of"] = "the task's libraries"
                        _import(task_class.libraries)
                    opening.runs.wait()
                    with clock.phase(Phase.IMPORT) as attributes:
                        attributes["of"] = "the task's assets"
                        ready_task = task_class(artifact)
                    runs_slowly = choice.successor is not None and variant.requires.provider not in NVIDIA
                    if (
                        early is not None
                        and runs_slowly
                        and opening.is_alive()
                        and opening.engine is not None
                    ):
                        report = ColdStartReport(clock, instance=instance, platform=platform, facts={})
                        early(Loaded(opening.engine, ready_task, report, concurrency, max_bytes, None))
            except Exception:  # a signal's is none: that ends the process, whatever is being opened
                opening.join()
                raise
            engine = opening.result()
            break
        except EngineError as error:
            engine = None  # what it holds is the next one's
            if early is not None:
                early(None)
            failures[variant.name] = str(error)
            if variant is choice.variants[-1] or ready_task is None:  # the task fails with any variant
                raise
    assert engine is not None  # noqa: S101 - one was opened, or the last one's error raised
    fallback = None
    if worse(artifact.manifest, engine.variant, failures):
        fallback = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    successor = choice.successor if engine.variant is choice.variants[0] else None
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
            **({"takeover": {"variant": successor.name, "state": "waiting"}} if successor else {}),
            "cache": artifact.cached,
            "host": machine._asdict(),
            "deployment": dict(deployment),
            **({"not_restored": settings.not_restored} if settings.not_restored else {}),
        },
    )
    assert ready_task is not None  # noqa: S101 - there is an engine
    return Loaded(
        engine,
        ready_task,
        report,
        concurrency=concurrency,
        max_bytes=max_bytes,
        fallback=fallback,
        batcher=batcher(engine, settings),
        artifact=artifact,
        threads=threads,
        successor=successor,
    )


def _proved(
    artifact: Artifact,
    variant: Variant,
    threads: int,
    ahead: Ahead | None,
    clock: PhaseClock,
    runs: Callable[[Engine], None],
) -> Engine:
    """A variant's engine, its session proved. ``runs``: given the engine when that is about to run."""
    from .compile import compile  # loaded; not at the top, for it brings numpy
    from .warmup import warm

    with clock.phase(Phase.COMPILE) as attributes:
        engine = compile(artifact, variant, threads=threads, ahead=ahead)
        attributes.update({} if ahead is None else ahead.told)
        attributes.update(variant=variant.name, provider=variant.requires.provider, threads=threads)
    with clock.phase(Phase.WARMUP) as attributes:
        attributes.update(warm(engine, artifact, begins=partial(runs, engine)))
    return engine


class _Opening(threading.Thread):
    """A variant's session, opened and proved in a thread of its own, begun at once.

    onnxruntime does both without the interpreter's lock, and the main thread has the task made ready
    meanwhile, as a function's own may expect: its library is imported while the session opens, and its assets
    are loaded while the session is proved. Not before: a tokenizer keeps the lock for as long as it is read,
    and a session asks for it between reading the graph and the rest of its opening.
    """

    def __init__(
        self, artifact: Artifact, variant: Variant, threads: int, ahead: Ahead | None, clock: PhaseClock
    ) -> None:
        super().__init__(name="preheat-opening")
        self.runs = threading.Event()
        """Set where the session is about to run, or is not to."""
        self._work = partial(_proved, artifact, variant, threads, ahead, clock)
        self.engine: Engine | None = None
        """Of the session that runs; proved where the thread has ended without an error."""
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.engine = self._work(self._runs)
        except BaseException as error:
            self._error = error
        finally:
            self.runs.set()

    def _runs(self, engine: Engine) -> None:
        self.engine = engine
        self.runs.set()

    def result(self) -> Engine:
        """The engine, once it is proved; raises what opening or proving it raised, and lets go of it then."""
        self.join()
        if self._error is not None:
            self.engine = None
            try:
                raise self._error
            finally:
                self._error = None  # its traceback holds this thread
        assert self.engine is not None  # noqa: S101 - nothing was raised
        return self.engine


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


def _choose(
    artifact: Artifact, machine: fingerprint.Fingerprint, settings: Settings, platform: str
) -> Choice:
    choice = choose(
        artifact.manifest,
        machine,
        objective=settings.objective,
        forced=settings.variant,
        provider=settings.require_provider,
    )
    if settings.tiered == "off" or settings.variant:
        return choice
    if settings.tiered == "on":
        return tiered(choice, artifact.manifest, thresholds=False)
    if platform in CPU_WITH_REQUESTS:
        return choice
    pair = tiered(choice, artifact.manifest, thresholds=True)
    if pair.successor is None:
        return choice
    needed = artifact.manifest.measured(pair.successor.name, "rss_mib") or 0.0
    return pair if needed * HEADROOM <= fingerprint.room_mib() else choice


def _ahead(
    artifact: Artifact, machine: fingerprint.Fingerprint, settings: Settings, platform: str
) -> Ahead | None:
    """Who makes the GPU ready beside the imports, where that is asked for and a GPU is likely to be used."""
    if settings.device_ahead != "on":
        return None
    best = _choose(artifact, machine, settings, platform).variants[0]
    if best.requires.provider not in NVIDIA:
        return None
    from .device_weights import Ahead  # nothing of it is needed on a CPU

    return Ahead(artifact, best, artifact.manifest.device_mib(best))


def likely_files(
    artifact: Artifact, machine: fingerprint.Fingerprint, settings: Settings, platform: str = "process"
) -> list[str]:
    """What the session will most likely open, told before onnxruntime is imported. Raises EngineError."""
    return artifact.manifest.read_with(_choose(artifact, machine, settings, platform).variants[0])
