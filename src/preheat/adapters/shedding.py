"""A request that finds no place, sent away by the thread that has read it: that takes microseconds."""

from __future__ import annotations

from ..errors import PreheatError
from ..service import Service
from .messages import HttpRequest, HttpResponse
from .observe import observed
from .responses import from_error
from .routes import Route, tenant_of


def shed_early(service: Service, request: HttpRequest, route: Route) -> HttpResponse | None:
    """The refusal of a request that would find no place, before a thread or a ledger is troubled with it.

    None where it may find one, where it is not known who sends it, and where only a check of its token tells.
    """
    if not service.principals.cheap:
        return None
    try:
        tenant = tenant_of(service, request)
    except PreheatError:
        return None
    refusal = service.admission.refusal(tenant)
    if refusal is None:
        return None

    def answer() -> HttpResponse:
        service.telemetry.bind(tenant)
        return from_error(service, refusal)

    return observed(service, request, route.name, answer)
