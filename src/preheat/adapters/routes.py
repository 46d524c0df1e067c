"""The hot routes over HTTP, whatever carries them: a request in, a response out.

Every door (the server's sockets, ASGI, FastAPI, Lambda) converts to and from ``messages`` and calls
``respond``, so they answer alike. Modules that bring numpy are imported inside the routes: liveness is
answered before numpy is there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from .. import errors
from ..answer import Answer
from ..calls import Call, Request
from ..errors import InvalidRequestError, NotFoundError
from ..phases import StartKind
from ..protocol import strict_json
from ..service import Service, State
from .body import content_type, read_body
from .messages import HttpRequest, HttpResponse
from .observe import metrics, observed
from .responses import DEFECT, as_json, error_response, from_error, own, recorded

if TYPE_CHECKING:
    from ..bootstrap import Loaded
    from ..models import Model
    from ..tensors import Tensors

Prepare = Callable[["Loaded"], Call]
_FINITE = json.JSONEncoder(allow_nan=False)


class Route(NamedTuple):
    """A route has an answer of its own, or prepares what the service runs."""

    method: str
    pattern: tuple[str, ...]
    """Path segments; one in braces matches any one segment."""
    answer: Callable[[Service, HttpRequest, dict[str, str]], HttpResponse] | None
    prepare: Callable[[HttpRequest, dict[str, str]], Prepare] | None = None

    @property
    def name(self) -> str:
        return f"/{'/'.join(self.pattern)}"


@lru_cache(maxsize=64)
def match(path: str) -> Mapping[str, tuple[Route, dict[str, str]]]:
    """The hot routes at a path, by method, each with the values of its pattern; empty for a path that is
    not hot."""
    segments = path.split("/")[1:]
    found: dict[str, tuple[Route, dict[str, str]]] = {}
    for route in _BY_LENGTH.get(len(segments), ()):
        values = {}
        for want, got in zip(route.pattern, segments, strict=True):
            if want[0] == "{":
                values[want[1:-1]] = got
            elif want != got:
                break
        else:
            found[route.method] = (route, values)
    return found


def respond(service: Service, request: HttpRequest) -> HttpResponse | None:
    """Answer a request to a hot route; None where the path is not one."""
    routes = match(request.path)
    if not routes:
        return None
    route = next(iter(routes.values()))[0]
    return observed(service, request, route.name, lambda: _answer(service, request, routes))


def _answer(
    service: Service, request: HttpRequest, routes: Mapping[str, tuple[Route, dict[str, str]]]
) -> HttpResponse:
    method = "GET" if request.method == "HEAD" else request.method
    if method not in routes:
        allowed = ", ".join(sorted({*routes, *(["HEAD"] if "GET" in routes else [])}))
        return error_response(
            service, 405, "method_not_allowed", f"{request.path} takes {allowed}", "rejected", allow=allowed
        )
    route, values = routes[method]
    try:
        if "x-preheat-timeout" in request.headers or "grpc-timeout" in request.headers:
            from .deadlines import shortest  # most requests have none

            request = request._replace(deadline_ns=shortest(request))
        if route.prepare is not None:
            return _handle(service, request, route.prepare(request, values), values)
        assert route.answer is not None  # noqa: S101 - a route has one of both
        return route.answer(service, request, values)
    except errors.PreheatError as error:
        return from_error(service, error)
    except Exception:  # a defect of ours or of the function's own task: the client learns no internals
        import traceback

        traceback.print_exc(file=sys.stderr)
        return error_response(service, 500, "internal", DEFECT, "failed")


# The routes


def _live(service: Service, _request: HttpRequest, _values: dict[str, str]) -> HttpResponse:
    return as_json(service, 200, {"live": True})


def _ready(service: Service, _request: HttpRequest, _values: dict[str, str]) -> HttpResponse:
    if service.state is State.READY:
        return as_json(service, 200, {"ready": True})
    return as_json(
        service,
        503,
        {"ready": False, "error": f"the server is {service.state.value}", "code": service.state.value},
        ("retry-after", "1"),
    )


def _server(service: Service, _request: HttpRequest, _values: dict[str, str]) -> HttpResponse:
    from ..protocol.v2 import server_metadata

    return as_json(service, 200, server_metadata())


def _model(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    from ..protocol.v2 import metadata

    model = further(service, request, values)
    if model is not None:
        tenant_of(service, request)  # whoever may have it loaded must be known
    loaded = (model or service).loaded(request.arrived_ns, request.deadline_ns)
    return as_json(service, 200, metadata(named(loaded, values).engine.manifest))


def _model_ready(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    if service.current is None or service.state is not State.READY:
        return _ready(service, request, values)
    model = further(service, request, values)
    if model is not None:
        from .repository import ready

        return ready(service, request, values, model)
    return as_json(service, 200, {"name": named(service.current, values).engine.manifest.name, "ready": True})


def _infer(request: HttpRequest, values: dict[str, str]) -> Prepare:
    def prepare(loaded: Loaded) -> Call:
        from ..protocol import v2

        manifest = named(loaded, values).engine.manifest
        body = read_body(request, loaded.max_bytes)
        length = request.headers.get("inference-header-content-length")
        content_type(request, ("application/json", "application/octet-stream"))
        if length is not None and not (length.isascii() and length.isdigit() and len(length) < 20):
            raise InvalidRequestError("Inference-Header-Content-Length must be a whole number of bytes")
        call = v2.decode(body, None if length is None else int(length), manifest)

        def finish(outputs: Tensors) -> Answer:
            data, header = v2.encode(call, outputs, manifest, labels=manifest.options.get("labels", ()))
            if header is None:
                return Answer(data)
            headers = (("inference-header-content-length", str(header)),)
            return Answer(data, "application/octet-stream", headers)

        return Call(call.inputs, finish, call.output_names)

    return prepare


def _predict(request: HttpRequest, values: dict[str, str]) -> Prepare:
    def prepare(loaded: Loaded) -> Call:
        from ..tasks import prepare

        if values:
            named(loaded, values)
        task = loaded.task  # what a call keeps must not keep the session
        kind = content_type(request, ("application/json", *task.accepts))
        body = read_body(request, loaded.max_bytes)
        payload = strict_json.loads(body) if kind == "application/json" else body
        inputs = prepare(task, payload, loaded.engine.manifest.inputs)

        def finish(outputs: Tensors) -> Answer:
            answer = task.finish(outputs, inputs)
            try:
                return Answer(strict_json.dumps(answer, _FINITE).encode())
            except ValueError:
                raise errors.UnprocessableError(
                    "the model's answer holds NaN or infinite values, which JSON cannot carry; "
                    "ask /v2 for binary output",
                    code="nonfinite_output",
                ) from None

        return Call(inputs, finish, padding=task.pads)

    return prepare


def _embeddings(request: HttpRequest, _values: dict[str, str]) -> Prepare:
    def prepare(loaded: Loaded) -> Call:
        from ..protocol import openai

        content_type(request, ("application/json",))
        document = strict_json.loads(read_body(request, loaded.max_bytes))
        inputs, encode = openai.embeddings(document, loaded.engine.manifest, loaded.task)
        return Call(inputs, lambda outputs: Answer(encode(outputs)), padding=loaded.task.pads)

    return prepare


def _coldstart(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    model = further(service, request, values)
    if model is None:
        loaded = service.loaded(request.arrived_ns, request.deadline_ns)
        report = (named(loaded, values) if values else loaded).report.to_dict()
    elif model.report is not None:
        report = model.report.to_dict()
    else:
        raise NotFoundError(f"model {model.name!r} has not been loaded yet", code="not_loaded")
    if "text/html" in request.headers.get("accept", ""):
        from ..waterfall import page

        html = page(report).encode()
        return HttpResponse(200, [("content-type", "text/html; charset=utf-8"), *own(service)], html)
    return as_json(service, 200, report)


def _metrics(service: Service, request: HttpRequest, _values: dict[str, str]) -> HttpResponse:
    text, kind = metrics(service, request)
    return HttpResponse(200, [("content-type", kind), *own(service)], text)


def _repository(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    from .repository import answer

    return answer(service, request, values)


def _request_status(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    from .deferred import status

    return status(service, request, values)


def _request_cancel(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    from .deferred import cancel

    return cancel(service, request, values)


ROUTES = (
    Route("GET", ("v2",), _server),
    Route("GET", ("v2", "health", "live"), _live),
    Route("GET", ("v2", "health", "ready"), _ready),
    Route("GET", ("v2", "models", "{model}"), _model),
    Route("GET", ("v2", "models", "{model}", "ready"), _model_ready),
    Route("POST", ("v2", "models", "{model}", "infer"), None, _infer),
    Route("GET", ("v2", "models", "{model}", "versions", "{version}"), _model),
    Route("GET", ("v2", "models", "{model}", "versions", "{version}", "ready"), _model_ready),
    Route("POST", ("v2", "models", "{model}", "versions", "{version}", "infer"), None, _infer),
    Route("POST", ("v2", "models", "{model}", "predict"), None, _predict),
    Route("GET", ("v2", "models", "{model}", "coldstart"), _coldstart),
    Route("POST", ("v2", "repository", "index"), _repository),
    Route("POST", ("v2", "repository", "models", "{model}", "load"), _repository),
    Route("POST", ("v2", "repository", "models", "{model}", "unload"), _repository),
    Route("POST", ("v1", "embeddings"), None, _embeddings),
    Route("POST", ("predict",), None, _predict),
    Route("GET", ("v2", "requests", "{id}"), _request_status),
    Route("DELETE", ("v2", "requests", "{id}"), _request_cancel),
    Route("GET", ("coldstart",), _coldstart),
    Route("GET", ("metrics",), _metrics),
)
_BY_LENGTH: dict[int, list[Route]] = {}
for _route in ROUTES:
    _BY_LENGTH.setdefault(len(_route.pattern), []).append(_route)


# What they share


def tenant_of(service: Service, request: HttpRequest) -> str:
    """Who sends a request, as verified; empty for nobody in particular. Raises what ``of`` raises, and
    ForbiddenError for anybody else than the one tenant whom an instance is for."""
    tenant = service.principals.of(request.headers, request.principal)
    if service.tenant and tenant != service.tenant:
        raise errors.ForbiddenError("this instance is another tenant's")
    return tenant


def is_deferred(service: Service, request: HttpRequest) -> bool:
    """Whether it is answered later, if it can be answered at all."""
    return "respond-async" in request.headers.get("prefer", "") and service.defers and service.takes_keys


def further(service: Service, request: HttpRequest, values: dict[str, str]) -> Model | None:
    """The further model that a request is for; None for the function's own. Raises NotFoundError."""
    if service.models is None:
        return None
    from .repository import asked

    return asked(service.models, request, values, service.max_bytes)


def _handle(service: Service, request: HttpRequest, prepare: Prepare, values: dict[str, str]) -> HttpResponse:
    # Whoever took its place knows already who sends it.
    tenant = tenant_of(service, request) if request.place is None else request.place.tenant
    service.telemetry.bind(tenant)
    key = None
    if service.modes[""] == "required" or len(service.modes) > 1 or "idempotency-key" in request.headers:
        from .keys import read_key  # most requests have none

        key = read_key(service, request, tenant)
    model = further(service, request, values)
    arrived_ns, deadline_ns, place = request.arrived_ns, request.deadline_ns, request.place
    call = Request(prepare, arrived_ns, deadline_ns, tenant, key, model=model, place=place)
    if is_deferred(service, request):
        from .deferred import accept

        return accept(service, request, call)
    outcome = service.handle(call)
    loaded = outcome.loaded
    kind = "restored" if loaded.report.kind is StartKind.RESTORED else "cold"
    start = kind if outcome.cold else "warm"
    timing = f"wait;dur={outcome.waited_ns / 1e6:.3f}, run;dur={outcome.ran_ns / 1e6:.3f}"
    if outcome.cold:
        timing = f"{loaded.report.server_timing()}, {timing}"
    response = recorded(service, outcome.answer)
    headers = response.headers
    headers += [("x-preheat-start", start), ("server-timing", timing)]
    if outcome.variant:
        headers.append(("x-preheat-variant", outcome.variant))
    if outcome.replayed:
        headers.append(("x-preheat-replayed", "true"))
    degraded = [f"variant={outcome.variant or loaded.engine.variant.name}"] if loaded.fallback else []
    degraded += [outcome.degraded] if outcome.degraded else []
    if degraded:
        headers.append(("x-preheat-degraded", ", ".join(degraded)))
    return response


def named(loaded: Loaded, values: dict[str, str]) -> Loaded:
    """Hold the path's model and version against what is loaded."""
    manifest = loaded.engine.manifest
    if values["model"] != manifest.name:
        raise NotFoundError(f"there is no model {values['model']!r} here; this server has {manifest.name!r}")
    version, plain = values.get("version"), manifest.version.removeprefix("sha256:")
    if version is not None and version not in (manifest.version, plain):
        raise NotFoundError(f"model {manifest.name!r} has no version {version!r}; it is at {plain}")
    return loaded
