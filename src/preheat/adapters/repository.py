"""Further models over HTTP: which of them a request is for, and Triton's model repository extension.

Imported where there are such models, or where the extension is asked. Source: Triton's
protocol/extension_model_repository.md; ``parameters`` of a load are not taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRequestError, RequestError
from ..protocol import strict_json
from .body import read_body
from .messages import HttpRequest, HttpResponse
from .responses import as_json
from .routes import further, named, tenant_of

if TYPE_CHECKING:
    from ..models import Model, Models
    from ..service import Service


def asked(models: Models, request: HttpRequest, values: dict[str, str], limit: int) -> Model | None:
    """The further model that a request is for, by its path or by the field ``model`` of embeddings; None for
    the function's own. ``limit``: of the body, in bytes. Raises NotFoundError."""
    name: object = values.get("model")
    if request.path == "/v1/embeddings":
        try:
            document = strict_json.loads(read_body(request, limit))
        except RequestError:  # told when it is decoded
            return None
        name = document.get("model") if isinstance(document, dict) else None
    return models.find(name) if isinstance(name, str) else None


def ready(service: Service, request: HttpRequest, values: dict[str, str], model: Model) -> HttpResponse:
    """Whether a model is loaded, without waiting: its load is under way from now on, where it is not. Raises
    why the last one failed, while it is not tried again."""
    tenant_of(service, request)
    load = model.begin()
    if load.refusal is not None:
        raise load.refusal()
    if load.loaded is None:
        told = {"ready": False, "error": f"model {model.name!r} is being loaded", "code": "loading"}
        return as_json(service, 503, told, ("retry-after", "1"))
    return as_json(service, 200, {"name": named(load.loaded, values).engine.manifest.name, "ready": True})


def answer(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    """The extension's three routes, for whom inference is for."""
    tenant_of(service, request)
    if not values:
        return _index(service, request)
    return (_unload if request.path.endswith("/unload") else _load)(service, request, values)


def _index(service: Service, request: HttpRequest) -> HttpResponse:
    """Every model with its state; with ``"ready": true`` in the body those that are loaded."""
    body = read_body(request, service.max_bytes)
    document = strict_json.loads(body) if body else {}
    if not isinstance(document, dict) or not isinstance(document.get("ready", False), bool):
        raise InvalidRequestError('the body must be a JSON object, {"ready": true} say')
    own = service.loaded(request.arrived_ns, request.deadline_ns).engine.manifest
    rows = [(own.name, own.version, "READY", "")]
    for model in service.models.values() if service.models is not None else ():
        loaded = model.current
        version = loaded.engine.manifest.version if loaded is not None else ""
        rows.append((model.name, version, model.state, model.reason))
    return as_json(
        service,
        200,
        [
            {"name": name, "version": version.removeprefix("sha256:"), "state": state, "reason": reason}
            for name, version, state, reason in rows
            if state == "READY" or not document.get("ready")
        ],
    )


def _load(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    """Load a model, and answer when it is there."""
    model = further(service, request, values)
    loaded = (model or service).loaded(request.arrived_ns, request.deadline_ns)
    named(loaded, values)
    return as_json(service, 200, {})


def _unload(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    """Let go of a model that nobody uses. Raises ShedError where somebody does."""
    model = further(service, request, values)
    if model is None:
        named(service.loaded(request.arrived_ns, request.deadline_ns), values)
        raise InvalidRequestError("the function's own model stays as long as its instance")
    assert service.models is not None  # noqa: S101 - it has this one
    service.models.unload(model)
    return as_json(service, 200, {})
