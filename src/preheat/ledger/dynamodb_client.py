"""boto3's client of DynamoDB as the ledger uses it, and its errors in words."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import boto3
from botocore import exceptions
from botocore.config import Config

from ..errors import LedgerError
from .remote import CALL_S, first_line

if TYPE_CHECKING:
    from botocore.client import BaseClient

_AGAIN = {
    *("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"),
    *("InternalServerError", "ServiceUnavailable", "TransactionConflictException", "LimitExceededException"),
    *("ReplicatedWriteConflictException", "500", "502", "503", "504"),
}


def make_client(name: str, region: str, endpoint: str) -> BaseClient:
    """A client that tries once. ``name``: the ledger as messages name it. Raises LedgerError for a region,
    credentials or an endpoint that cannot be used."""
    config = Config(
        connect_timeout=CALL_S,
        read_timeout=CALL_S,
        retries={"total_max_attempts": 1},  # ours know the deadline, and when a request was sent
        tcp_keepalive=True,
        max_pool_connections=64,
    )
    region = region or os.environ.get("AWS_REGION") or ""  # boto3 knows AWS_DEFAULT_REGION alone
    try:
        client: BaseClient = boto3.session.Session().client(
            "dynamodb", region_name=region or None, endpoint_url=endpoint or None, config=config
        )
    except (exceptions.BotoCoreError, ValueError) as error:
        raise LedgerError(
            f"the ledger {name} cannot be used: {first_line(error)} (AWS_REGION or ?region=)"
        ) from error
    client.meta.events.register("before-parse.dynamodb", _whole)
    return client


def schema_fault(error: Exception) -> str:
    """What is wrong with the table, where that is the error; else empty."""
    if isinstance(error, exceptions.ClientError):
        code, words = error.response["Error"].get("Code", ""), first_line(error)
        if code == "ResourceNotFoundException":
            return "does not exist"
        if code == "ValidationException" and ("index" in words or "key element" in words):
            return "has another schema"
    return ""


def said(error: Exception) -> tuple[str, bool] | None:
    """An error in words, and whether another try may help; None for anybody else's error."""
    if isinstance(error, exceptions.ClientError):
        return f"refuses: {first_line(error)}", error.response["Error"].get("Code", "") in _AGAIN
    if isinstance(error, exceptions.HTTPClientError):
        return f"cannot be reached: {first_line(error)}", True
    if isinstance(error, exceptions.BotoCoreError):
        return f"cannot be used: {first_line(error)}", False
    return None


def _whole(response_dict: dict[str, Any], **_: Any) -> None:
    """Refuse an answer that was cut among its headers: botocore takes it for a whole one, without a body."""
    headers = response_dict["headers"]
    if "transfer-encoding" not in headers and headers.get("content-length") != str(
        len(response_dict["body"])
    ):
        raise exceptions.ConnectionClosedError(endpoint_url="the ledger")
