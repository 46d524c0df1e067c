"""A function: what a person writes in ``app.py``, and what every platform takes from it.

::

    from preheat import Function

    function = Function(__file__)
    handler, app = function.handler, function.app     # AWS Lambda; any ASGI server
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from .errors import PreheatError, UsageError
from .phases import FIRST_LINE_NS, Phase, PhaseClock
from .service import Service, from_settings
from .settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .adapters.asgi import LeanDoor
    from .adapters.aws_lambda import LambdaHandler
    from .adapters.bridge import Bridge
    from .bootstrap import Loaded
    from .tasks import Task


class Function:
    """One model behind every door, and those of PREHEAT_MODELS beside it.

    ``home``: the ``app.py`` itself (``__file__``); its artifact lies in the folder ``artifact`` beside it
    unless PREHEAT_ARTIFACT names another. ``task``: a class of one's own, in place of the artifact's.
    """

    def __init__(
        self, home: str = "", *, task: type[Task] | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self.settings = Settings.from_environ(self._environ)
        self.home = os.path.dirname(os.path.abspath(home)) if home else ""
        self.task = task
        self._starting = Lock()
        self._loading = Lock()
        self._making = Lock()
        self._service: Service | None = None
        self._api: FastAPI | None = None
        self._bridge: Bridge | None = None
        self._handler: LambdaHandler | None = None

    @property
    def service(self) -> Service:
        """The core, as the settings want it; a server sets its own, which is there before the function.
        Raises SettingsError for a setting that cannot be."""
        with self._making:
            if self._service is None:
                self._service = from_settings(
                    self.settings,
                    self.settings.cache_dir(self._environ),
                    alone=platform(self._environ) == "process",
                    environ=self._environ,
                )
            return self._service

    @service.setter
    def service(self, service: Service) -> None:
        self._service = service

    @property
    def location(self) -> str:
        """Where the artifact lies."""
        named = self.settings.artifact
        if named and not named.endswith(".py"):
            return named
        if self.home:
            return os.path.join(self.home, "artifact")
        raise UsageError(
            "no artifact was named: set PREHEAT_ARTIFACT to an artifact folder, an app.py or a store's URL"
        )

    def start(self, clock: PhaseClock | None = None) -> None:
        """Bootstrap once; later calls return at once. Raises what ``bootstrap`` raises, every time."""
        with self._starting:
            if self.service.current is not None:
                return
            clock = clock or PhaseClock()
            if len(self.service.modes) > 1:
                from .adapters.keys import check_modes

                check_modes(self.service.modes)
            quieten_libraries()
            with clock.phase(Phase.IMPORT) as attributes:
                attributes["of"] = "phases"
                from . import bootstrap, stores  # noqa: F401 - loaded, not used
            models = self.service.models
            try:
                loaded = self._open(self.location, clock, task=self.task, early=self.service.early)
                if models is not None:
                    models.check_own(loaded.engine.manifest.name)
                    # Each load is beside the requests of others already: no second session beside that.
                    models.opened_by(partial(self._open, tiered="off"), _told)
            except PreheatError as error:
                self.service.fail(error)
                raise
            self.service.ready(loaded)
            if loaded.successor is not None:
                from .takeover import Takeover

                tell = partial(_told, "takeover")
                takeover = Takeover(self.service, loaded.successor, loaded.threads, self.settings, tell)
                takeover.start()
                self.service.takeover = takeover
        log("cold start", **loaded.report.to_dict())

    def _open(self, location: str, clock: PhaseClock, *, tiered: str = "", **more: Any) -> Loaded:
        """The main path for the artifact at a location; ``more`` as ``bootstrap`` takes it."""
        from .bootstrap import bootstrap
        from .stores import open_store

        threads = self.settings.thread_count(self._environ)
        return bootstrap(
            open_store(location),
            self.settings._replace(threads=threads, tiered=tiered or self.settings.tiered),
            cache_dir=self.settings.cache_dir(self._environ),
            instance=self.service.instance,
            clock=clock,
            platform=platform(self._environ),
            deployment=deployment(self._environ),
            **more,
        )

    @property
    def handler(self) -> LambdaHandler:
        """The AWS Lambda handler. On Lambda the model is started here, in the init phase; what that raises is
        the init error that Lambda logs."""
        if self._handler is None:
            from .adapters.aws_lambda import LambdaHandler

            self._handler = LambdaHandler(self, self._environ)
            if self._environ.get("AWS_LAMBDA_RUNTIME_API"):
                self._init(self._handler)
        return self._handler

    def _init(self, handler: LambdaHandler) -> None:
        """Start as server.main does it: one BLAS thread, and no collector while importing. Where a snapshot
        follows (SnapStart), all that any answer needs is loaded now."""
        import gc

        quieten_libraries()
        gc.disable()
        clock = PhaseClock()
        with clock.phase(Phase.IMPORT, FIRST_LINE_NS) as attributes:
            attributes["of"] = "function, handler"
        try:
            self.start(clock)
            if self._environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
                from .snapshot import builtin, hooks

                handler.load()
                builtin.register(self, handler)
                hooks.on_lambda()
        finally:
            gc.freeze()
            gc.enable()

    @property
    def app(self) -> LeanDoor:
        """The ASGI application: hot routes at once, FastAPI's for the rest, loaded when first asked for."""
        from .adapters.asgi import LeanDoor

        return LeanDoor(self)

    @property
    def api(self) -> FastAPI:
        """The FastAPI application that defines every route; add routes of your own to it."""
        with self._loading:
            if self._api is None:
                from .adapters.api import create

                self._api = create(self)
            return self._api

    @property
    def bridge(self) -> Bridge:
        """The way from a thread to ``api``."""
        api = self.api
        with self._loading:
            if self._bridge is None:
                from .adapters.bridge import Bridge

                self._bridge = Bridge(api)
            return self._bridge


def quieten_libraries() -> None:
    """Keep libraries from what an instance has no use for; a value that is set already stands.

    numpy's BLAS would start a thread a CPU at import, a third of the import's time, and nothing here uses it:
    onnxruntime has kernels of its own. onnxruntime's telemetry (on by default from 1.31 on) would open a
    database and a thread at import, and send what it collects while the first request waits.
    """
    for name in ("OPENBLAS_NUM_THREADS", "ORT_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")


def load(path: str) -> Function:
    """The one Function in a file. Raises UsageError where there is none, several, or the file fails."""
    from importlib.util import module_from_spec, spec_from_file_location

    if not os.path.isfile(path):
        raise UsageError(f"{path} does not exist")
    spec = spec_from_file_location("preheat_function", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))  # its own modules, as for any script
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except PreheatError:
        raise
    except Exception as error:
        raise UsageError(f"{path} failed when it was imported: {type(error).__name__}: {error}") from error
    found = {id(value): value for value in vars(module).values() if isinstance(value, Function)}
    if len(found) != 1:
        raise UsageError(f"{path} must define one preheat.Function; it defines {len(found)}")
    return found.popitem()[1]


def target(location: str, environ: Mapping[str, str]) -> Function:
    """The function that a command's TARGET names: an ``app.py``, or an artifact's place."""
    return load(location) if location.endswith(".py") else Function(environ=environ)


def platform(environ: Mapping[str, str]) -> str:
    """Where this process runs, by the names that the platforms set."""
    if environ.get("AWS_LAMBDA_FUNCTION_NAME"):
        return "lambda"
    if environ.get("K_SERVICE"):
        return "knative" if environ.get("KUBERNETES_SERVICE_HOST") else "cloudrun"
    return "process"


def deployment(environ: Mapping[str, str]) -> dict[str, str]:
    """What Knative and Cloud Run call this deployment: K_SERVICE, K_CONFIGURATION, K_REVISION (Knative's
    runtime contract, "Process"); empty elsewhere."""
    names = ("service", "configuration", "revision")
    return {name: environ[f"K_{name.upper()}"] for name in names if environ.get(f"K_{name.upper()}")}


def _told(message: str, fields: Mapping[str, Any]) -> None:
    log(message, **fields)


_sink: Callable[[str, Mapping[str, Any]], None] | None = None


def log_through(sink: Callable[[str, Mapping[str, Any]], None]) -> None:
    """Let a platform's own logger write every later line."""
    global _sink
    _sink = sink


def log(message: str, **fields: Any) -> None:
    """One JSON line on standard output, where every platform collects logs."""
    if _sink is not None:
        _sink(message, fields)
        return
    print(json.dumps({"message": message, **fields}), flush=True)  # noqa: T201
