"""A request's place, taken by the thread that has read it: what finds none is sent away there, within
microseconds, and no more requests are handed to threads than there is room for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import PreheatError
from ..service import Service
from .messages import HttpRequest, HttpResponse, Sender
from .observe import began, told
from .responses import from_error
from .routes import Route, is_deferred, tenant_of

if TYPE_CHECKING:
    from ..admission import Place


def enter(service: Service, request: HttpRequest, route: Route) -> Place | HttpResponse | None:
    """The request's place, or the response that says why it gets none. None where it is not known who sends
    it, and where only a check of its token tells: whoever answers it finds out. None too for what is answered
    later, and has its place then."""
    if not service.principals.cheap or is_deferred(service, request):
        return None
    sender = request.sender or Sender()
    try:
        if sender.tenant is None:
            sender.tenant = tenant_of(service, request)
    except PreheatError:
        return None
    try:
        soon = "idempotency-key" not in request.headers  # else the ledger is asked first
        return service.admission.enter(sender.tenant, soon=soon)
    except PreheatError as error:
        seen = began(service, request, route.name)
        seen.tenant = sender.tenant
        return told(service, seen, request, from_error(service, error))
