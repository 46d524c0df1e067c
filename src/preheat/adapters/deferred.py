"""``Prefer: respond-async`` over HTTP (RFC 7240, 4.1): 202 and a place to ask that outlives the instance."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from ..answer import pack, unpack
from ..calls import Key, Request
from ..errors import CancelledError, InvalidRequestError, NotFoundError
from ..jobs import Jobs
from ..ledger import new_fence
from ..service import Service
from . import responses, routes
from .keys import record_name, tenant_prefix
from .messages import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from ..bootstrap import Loaded

_KEPT = ("content-type", "content-encoding", "inference-header-content-length", "traceparent", "tracestate")
_ID = 40


def jobs(service: Service) -> Jobs:
    """The service's deferred requests; made when they are first asked for."""
    prefix = f"{tenant_prefix(service.tenant)}." if service.tenant else ""
    return service.deferred(lambda: Jobs(service, lambda data: _rebuild(service, data), prefix))


def resume(service: Service) -> None:
    """Look for what other instances left behind, from now on."""
    jobs(service).look_after()


def accept(service: Service, http: HttpRequest, request: Request) -> HttpResponse:
    """Record a request that is answered later. Raises RequestError for one that cannot be answered at all."""
    loaded = (request.model or service).loaded(request.arrived_ns, request.deadline_ns)
    request.prepare(loaded)
    key = request.key or Key(record_name(request.tenant, http.path, os.urandom(16).hex()), _of_a_model)
    envelope = _envelope(http, request.tenant, service.telemetry.traceparent)
    outcome = jobs(service).accept(key.name, key.fingerprint(loaded), envelope)
    if outcome is not None:
        return responses.replayed(service, outcome)
    return _told(service, key.name, preferred=True)


def _of_a_model(loaded: Loaded) -> str:
    """The fingerprint of a request without a key: nobody sends it again."""
    return loaded.scope


def status(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    """202 while it waits or runs, then its answer, byte for byte."""
    name = _name(service, request, values)
    record = service.idempotency.ledger.read(name)
    if record is None:
        raise _unknown(values)
    if record.outcome is not None:
        return responses.replayed(service, unpack(record.outcome))
    return _told(service, name, running=record.lease_left > 0)


def cancel(service: Service, request: HttpRequest, values: dict[str, str]) -> HttpResponse:
    """Call a request off, or forget its answer. What runs already runs to its end, and its answer is lost."""
    name = _name(service, request, values)
    idempotency = service.idempotency
    called_off = pack(CancelledError("the request was called off"))
    stands = idempotency.ledger.cancel(name, new_fence(), called_off, keep=idempotency.keep)
    if stands is None:
        raise _unknown(values)
    if stands != called_off:
        idempotency.ledger.remove(name)
    return HttpResponse(204, responses.own(service), b"")


def _told(service: Service, name: str, *, running: bool = True, preferred: bool = False) -> HttpResponse:
    place = f"/v2/requests/{name.partition('.')[2]}"
    document = {"id": place.rpartition("/")[2], "status": "running" if running else "waiting"}
    headers = [
        ("content-type", "application/json"),
        *responses.own(service, outcome="accepted"),
        ("location", place),
        ("retry-after", "1"),
        *([("preference-applied", "respond-async")] if preferred else []),
    ]
    return HttpResponse(202, headers, json.dumps(document).encode())


def _name(service: Service, request: HttpRequest, values: dict[str, str]) -> str:
    """The record's name: a tenant's own prefix, so that nobody sees another's."""
    digits = values["id"]
    if len(digits) != _ID or not digits.isalnum() or not service.takes_keys:
        raise _unknown(values)
    tenant = routes.tenant_of(service, request)
    service.telemetry.bind(tenant)
    return f"{tenant_prefix(tenant)}.{digits}"


def _unknown(values: dict[str, str]) -> NotFoundError:
    return NotFoundError(f"there is no request {values['id']!r}, or it is forgotten by now")


def _envelope(request: HttpRequest, tenant: str, traceparent: str) -> bytes:
    """A request as it is recorded: a line of JSON, then the body. ``traceparent``: of this request's own
    span; empty where it has none, and the client's is kept."""
    headers = {name: request.headers[name] for name in _KEPT if name in request.headers}
    if traceparent:
        headers["traceparent"] = traceparent
    head = {"method": request.method, "path": request.path, "headers": headers, "tenant": tenant}
    return json.dumps(head).encode() + b"\n" + request.body


def _rebuild(service: Service, data: bytes) -> Request:
    line, _, body = data.partition(b"\n")
    head = json.loads(line)
    request = HttpRequest(head["method"], head["path"], head["headers"], body, 0)
    route, values = routes.match(request.path)[request.method]
    if route.prepare is None:
        raise InvalidRequestError(f"{request.path} is no route that is answered later")
    link = head["headers"].get("traceparent", "")
    prepare, model = route.prepare(request, values), routes.further(service, request, values)
    return Request(prepare, 0, tenant=head["tenant"], link=link, model=model)
