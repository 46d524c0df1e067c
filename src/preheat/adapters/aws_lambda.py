"""The direct door on AWS Lambda: an event in, a response out, no web framework between.

Takes what a Function URL and API Gateway send (payload formats 2.0 and 1.0), what a load balancer sends,
batches of a queue (``sqs.py``), and a direct invocation, whose event is the body of ``/predict``. A path that
is not hot goes to FastAPI, through Mangum.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import errors
from ..phases import Phase
from ..principals import lambda_principal, principal
from .lambda_events import deadline_ns, event_response, foreign, held_against_limit, is_http, request_of
from .messages import HttpRequest
from .observe import refused
from .responses import from_error
from .routes import respond

if TYPE_CHECKING:
    from ..function import Function
    from ..phases import ColdStartReport
    from .lambda_telemetry import Telemetry
    from .mangum_door import MangumDoor

_RAISED: dict[int, type[errors.PreheatError]] = {
    400: errors.InvalidRequestError,
    401: errors.UnauthenticatedError,
    403: errors.ForbiddenError,
    409: errors.InProgressError,
    413: errors.TooLargeError,
    422: errors.UnprocessableError,
    429: errors.ThrottledError,
    503: errors.UnavailableError,
    504: errors.TimedOutError,
}
"""What a direct invocation fails with, by the status that the same request has over HTTP."""


class LambdaHandler:
    """What Lambda calls with each event. The model is started by the first call at the latest."""

    def __init__(self, function: Function, environ: Mapping[str, str]) -> None:
        self.function = function
        self._environ = environ
        self._mangum: MangumDoor | None = None
        self._telemetry: Telemetry | None = None
        self._recorded = ""
        self._waiting: tuple[ColdStartReport, str] | None = None

    def __call__(self, event: Any, context: Any = None) -> Any:
        request_id = str(getattr(context, "aws_request_id", ""))
        self._record()  # where nobody let go of the answer before
        try:
            if self._telemetry is None:
                return self._watched(self._answer(event, context), request_id)
            with self._telemetry.invocation(request_id):
                return self._watched(self._answer(event, context), request_id)
        finally:
            if self.function.settings.trace_flush == "answer":  # afterwards the instance is frozen
                self.function.service.telemetry.flush()

    def _answer(self, event: Any, context: Any) -> Any:
        self.function.start()
        arrived_ns = time.perf_counter_ns()
        until_ns = deadline_ns(context)
        if not is_http(event):
            from .sqs import handle_batch, is_batch

            if is_batch(event):
                return handle_batch(self.function.service, event, until_ns)
            return self._direct(event, context, arrived_ns, until_ns)
        service = self.function.service
        try:
            request, _ = request_of(event, arrived_ns, service.max_bytes)
        except errors.PreheatError as error:
            return event_response(refused(service, from_error(service, error)), event)
        try:
            who = lambda_principal(event, self.function.settings.jwt_claim)
            response = respond(service, request._replace(principal=who, deadline_ns=until_ns))
            if response is None:
                return self.mangum(event, context)
            return event_response(response, event)
        except errors.PreheatError as error:
            return event_response(from_error(service, error), event)

    @property
    def mangum(self) -> MangumDoor:
        """The way to ``function.api``. Raises NotFoundError where Mangum or FastAPI is not installed."""
        if self._mangum is None:
            from .mangum_door import MangumDoor

            self._mangum = MangumDoor(self.function)
        return self._mangum

    def _watched(self, answer: Any, request_id: str) -> Any:
        """The answer; the first one of a start has its record written when it is let go of."""
        current = self.function.service.current
        if current is None or not self._environ.get("AWS_LAMBDA_RUNTIME_API") or not isinstance(answer, dict):
            return answer
        report = current.report
        if report.id == self._recorded or report.spans[-1].phase is not Phase.FIRST_REQUEST:
            return answer
        from .lambda_telemetry import Answered

        self._recorded, self._waiting = report.id, (report, request_id)
        return Answered(answer, self._record)

    def _record(self) -> None:
        """Write the record that waits, if one does. Without Powertools there is the log alone."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        from .lambda_telemetry import complain

        try:
            telemetry = self._open_telemetry()
            with telemetry.invocation(waiting[1]):
                telemetry.record(*waiting)
        except ModuleNotFoundError:
            pass
        except Exception as error:  # what another library raises, on behalf of no request
            complain(error)

    def _open_telemetry(self) -> Telemetry:
        if self._telemetry is None:
            from ..function import log_through
            from .lambda_telemetry import Telemetry

            self._telemetry = Telemetry(self._environ)
            log_through(self._telemetry.log)
        return self._telemetry

    def load(self) -> None:
        """Load what later answers need, and answer the recorded request: before a snapshot, where it costs
        what is restored from it nothing."""
        from ..protocol import openai, v2  # noqa: F401 - loaded, not used
        from . import keys, sqs  # noqa: F401

        with contextlib.suppress(errors.NotFoundError):  # neither FastAPI nor Mangum is there: nor asked for
            _ = self.mangum
        with contextlib.suppress(ModuleNotFoundError):
            self._open_telemetry()
        current = self.function.service.current
        if current is not None and current.engine.manifest.sample is not None and self.function.task is None:
            with contextlib.suppress(errors.PreheatError):  # a tenant's key is asked for, say
                self._direct(current.engine.manifest.sample["request"], None, time.perf_counter_ns(), 0)

    def close(self) -> None:
        """Leave no loop and no client open, for a snapshot or for good; what is needed is opened
        again."""
        if self._mangum is not None:
            self._mangum.close()
        self.function.service.close()

    def _direct(self, event: Any, context: Any, arrived_ns: int, until_ns: int) -> Any:
        """The task's answer to an event that is its natural JSON. An error is raised with its message, so
        that Lambda reports the invocation as failed. Its tenant is the function: AWS let the caller invoke
        it, and does not tell who that was. Where a key is required, the invocation's id is one: it stays the
        same when Lambda tries an asynchronous invocation again."""
        service = self.function.service
        if other := foreign(event):
            raise errors.InvalidRequestError(
                f"an event of {other} is not taken here: send HTTP events (Function URL, API Gateway, load "
                "balancer), an SQS queue's, or the body of /predict as the event itself",
                code="unknown_event",
            )
        body, headers = json.dumps(event).encode(), {"content-type": "application/json"}
        modes = service.modes
        if modes.get("/predict", modes[""]) == "required" and hasattr(context, "aws_request_id"):
            headers["idempotency-key"] = str(context.aws_request_id)
        who = principal("invoke", str(getattr(context, "invoked_function_arn", "") or ""))
        request = HttpRequest("POST", "/predict", headers, body, arrived_ns, who, until_ns)
        response = respond(service, request)
        assert response is not None  # noqa: S101 - /predict is hot
        answer = json.loads(response.body)
        if response.status != 200:
            raise _RAISED.get(response.status, errors.PreheatError)(answer["error"], code=answer["code"])
        held_against_limit(answer, len(response.body))
        return answer
