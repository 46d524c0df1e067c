"""Queue batches on AWS Lambda: each message is a request, and only those that failed come back.

A message's body is the natural JSON of ``/predict``; a message attribute ``route`` names another POST route.
Its key is the attribute ``Idempotency-Key``, else the message id, which every delivery of it shares; its
tenant is the queue. The answer goes nowhere: the ledger keeps it, and a task of one's own may send it on.
Source of the shapes: AWS Lambda developer guide, "Using Lambda with Amazon SQS".
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidRequestError
from ..principals import principal
from ..service import Service
from .messages import HttpRequest
from .routes import respond

RESERVE_S = 0.5
"""Seconds that are kept for telling the platform what came of the batch."""


def is_batch(event: Any) -> bool:
    records = event.get("Records") if isinstance(event, dict) else None
    return (
        isinstance(records, list)
        and bool(records)
        and all(isinstance(record, dict) and record.get("eventSource") == "aws:sqs" for record in records)
    )


def handle_batch(service: Service, event: Mapping[str, Any], deadline_ns: int = 0) -> dict[str, Any]:
    """Run a batch, one message after the other, and name those to be delivered again: everything that has
    not succeeded, the sender's own errors too, which the queue moves to its dead letters in the end.

    ``deadline_ns``: ``perf_counter_ns`` at which the platform ends the invocation, 0 for never; what would
    not fit before it is handed back unprocessed. In a FIFO queue what follows a failed message of its group
    is handed back too. Raises InvalidRequestError for a record without a message id.
    """
    failed: list[str] = []
    stopped: set[str] = set()
    longest_ns = 0
    for record in event["Records"]:
        identifier = record.get("messageId")
        if not isinstance(identifier, str) or not identifier:
            raise InvalidRequestError("a record of the batch has no messageId")
        began_ns = time.perf_counter_ns()
        group = _group(record)
        if group and group in stopped:
            failed.append(identifier)
            continue
        reserve_ns = max(longest_ns, int(RESERVE_S * 1e9))
        if deadline_ns and began_ns + reserve_ns > deadline_ns:
            error = "the invocation's time is nearly up"
        else:
            error = _run(service, record, identifier, began_ns, deadline_ns)
            longest_ns = max(longest_ns, time.perf_counter_ns() - began_ns)
        if error:
            _log(identifier, error)
            failed.append(identifier)
            stopped.add(group)
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in failed]}


def _run(
    service: Service, record: Mapping[str, Any], identifier: str, arrived_ns: int, deadline_ns: int
) -> str:
    """What went wrong with a message; empty where it was answered."""
    body, route = record.get("body"), _attribute(record, "route") or "/predict"
    if not isinstance(body, str):
        return "its body is not a text"
    headers = {
        "content-type": "application/json",
        "idempotency-key": _attribute(record, "Idempotency-Key") or identifier,
    }
    request = HttpRequest(
        "POST",
        route,
        headers,
        body.encode("utf-8", "surrogatepass"),  # refused below, as any text that is not UTF-8
        arrived_ns,
        principal=principal("sqs", str(record.get("eventSourceARN") or "unnamed")),
        deadline_ns=deadline_ns,
    )
    response = respond(service, request)
    if response is None:
        return f"there is no route {route!r} for messages"
    if 200 <= response.status < 300:
        return ""
    answer = json.loads(response.body)
    return f"{response.status} {answer['code']}: {answer['error']}"


def _group(record: Mapping[str, Any]) -> str:
    """The message's group in a FIFO queue; empty in any other, where a group orders nothing."""
    if not str(record.get("eventSourceARN")).endswith(".fifo"):
        return ""
    attributes = record.get("attributes")
    return str(attributes.get("MessageGroupId") or "") if isinstance(attributes, dict) else ""


def _attribute(record: Mapping[str, Any], name: str) -> str:
    """A message attribute of type String, its name in any case; empty where there is none."""
    attributes = record.get("messageAttributes")
    for found, value in attributes.items() if isinstance(attributes, dict) else ():
        if str(found).lower() == name.lower() and isinstance(value, dict):
            return str(value.get("stringValue") or "")
    return ""


def _log(identifier: str, error: str) -> None:
    from ..function import log

    log("message failed", message_id=identifier, error=error)
