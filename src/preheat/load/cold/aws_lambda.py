"""AWS Lambda: a new version is published and the alias moved to it, so that every instance of the alias is
new.

A version is published only where code or configuration changed, so the description is changed first, which
runs nothing and reaches no request: `$LATEST` is not what the alias serves. Confirmed by the alias, by the
version's state, and by the alias routing no share of its traffic elsewhere.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from ...errors import UsageError
from . import NotColdError

READY_S = 600.0
"""SnapStart takes its snapshot in this time: minutes for a large model."""
POLL_S = 1.0


class AwsLambda:
    def __init__(self, function: str, alias: str, client: Any) -> None:
        self._function, self._alias, self._client = function, alias, client

    def force(self) -> str:
        """Raises NotColdError with AWS's own words, or where it is not so in time."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            version = self._publish()
            self._client.update_alias(
                FunctionName=self._function,
                Name=self._alias,
                FunctionVersion=version,
                RoutingConfig={"AdditionalVersionWeights": {}},
            )
            alias = self._client.get_alias(FunctionName=self._function, Name=self._alias)
        except (BotoCoreError, ClientError) as error:
            raise NotColdError(f"AWS Lambda, {self._function}: {error}") from None
        weights = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        if alias["FunctionVersion"] != version or weights:
            raise NotColdError(
                f"the alias {self._alias} is at {alias['FunctionVersion']} {weights}, not at {version}"
            )
        return f"GetAlias: {self._function}:{self._alias} is at the new version {version}"

    def _publish(self) -> str:
        mark = f"load test {uuid.uuid4()}"
        told = self._client.update_function_configuration(FunctionName=self._function, Description=mark)
        if told.get("Description") != mark:
            raise NotColdError(f"{self._function} did not take a new description, so no version would be new")
        self._settled("")
        version = str(self._client.publish_version(FunctionName=self._function)["Version"])
        self._settled(version)
        return version

    def _settled(self, version: str) -> None:
        deadline = time.monotonic() + READY_S
        which = {"Qualifier": version} if version else {}
        while True:
            found = self._client.get_function_configuration(FunctionName=self._function, **which)
            state, updated = found.get("State", "Active"), found.get("LastUpdateStatus", "Successful")
            if state == "Active" and updated == "Successful":
                return
            if "Failed" in (state, updated):
                why = found.get("StateReason") or found.get("LastUpdateStatusReason") or "AWS says no more"
                raise NotColdError(f"{self._function} {version} failed: {why}")
            if time.monotonic() > deadline:
                raise NotColdError(
                    f"{self._function} {version} is still {state}, {updated} after {READY_S:g} s"
                )
            time.sleep(POLL_S)


def force_cold(name: str, what: str, url: str) -> AwsLambda:  # noqa: ARG001 - what every plug-in is given
    function, _, alias = what.rpartition(":")
    if not function or not alias:
        raise UsageError("--cold lambda:FUNCTION:ALIAS must name both; the alias is what the URL serves")
    try:
        import boto3
    except ImportError:
        raise UsageError(
            "--cold lambda needs boto3; install it with `pip install 'preheat[lambda]'`"
        ) from None
    from botocore.exceptions import BotoCoreError

    try:
        return AwsLambda(function, alias, boto3.client("lambda"))
    except BotoCoreError as error:
        raise UsageError(f"--cold lambda: {error}; set AWS_REGION and credentials") from None
