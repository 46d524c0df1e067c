"""A function as AWS Lambda runs it, on this machine: the genuine Runtime Interface Emulator (RIE) starts the
genuine runtime client (awslambdaric), and invocations go to it over HTTP.

The RIE ships inside the ``aws-sam-cli`` wheel, and as a release of its own.
"""

from __future__ import annotations

import base64
import glob
import json
import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ..errors import UsageError
from .client import Response, request
from .start import OTHER_PORT, PORT, Contender
from .target import Target, conversation, forced

INVOCATIONS = "/2015-03-31/functions/function/invocations"
MEMORY_MB = 1769
"""The memory size that a function is run with unless the environment names another: one vCPU."""
_ARCH = {"x86_64": "x86_64", "aarch64": "arm64"}


def find_rie(named: str, environ: Mapping[str, str]) -> str:
    """The emulator's path: ``named``, else LAMBDA_RIE, else on PATH, else in ``.venv-sam``.

    Raises UsageError that says how to get it.
    """
    name = f"aws-lambda-rie-{_ARCH.get(os.uname().machine, os.uname().machine)}"
    inside = f".venv-sam/lib/python*/site-packages/samcli/local/rapid/{name}"
    path = (
        named
        or environ.get("LAMBDA_RIE")
        or shutil.which("aws-lambda-rie")
        or next(iter(glob.glob(inside)), "")
    )
    if not path or not os.access(path, os.X_OK):
        raise UsageError(
            f"{path or 'the Lambda Runtime Interface Emulator'} cannot be run: it is {name} inside the "
            "aws-sam-cli wheel (`make .venv-sam/.ready`, or pip install aws-sam-cli into an environment of "
            "its own); name it with --rie or LAMBDA_RIE"
        )
    if find_spec("awslambdaric") is None:
        raise UsageError("Lambda's runtime client is not installed: pip install awslambdaric")
    return os.path.abspath(path)


def contender(target: Target, rie: str, variant: str = "") -> Contender:
    """The function under the emulator, asked over a Function URL. Raises UsageError for a folder."""
    environ = forced(target.environ, target, variant)
    path, body, headers, check = conversation(target)
    return Contender(
        f"{target.location} on Lambda{' ' + variant if variant else ''}",
        command(rie, target.location),
        lambda_environ(environ, target.location),
        invocation(http_event("POST", path, body, headers)),
        check,
        phases=invocation(http_event("GET", "/coldstart")),
        unwrap=answer,
    )


def command(rie: str, app: str) -> tuple[str, ...]:
    """What starts a function's ``app.py`` under the emulator."""
    if not app.endswith(".py"):
        raise UsageError(f"{app} is no function: Lambda needs the app.py with its handler")
    handler = f"{os.path.basename(app).removesuffix('.py')}.handler"
    return (
        *(rie, "--log-level", "error"),
        *("--runtime-interface-emulator-address", f"127.0.0.1:{PORT}"),
        *("--runtime-api-address", f"127.0.0.1:{OTHER_PORT}"),
        *(sys.executable, "-m", "awslambdaric", handler),
    )


def lambda_environ(environ: Mapping[str, str], app: str) -> dict[str, str]:
    """The environment of a function on Lambda; its folder is where modules are found, as the task root is."""
    paths = [os.path.dirname(os.path.abspath(app)), environ.get("PYTHONPATH", "")]
    return {
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB),
        "AWS_REGION": "eu-west-1",
        **environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def invocation(event: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """The whole request that invokes the function with an event; ``headers``: to the platform."""
    sent = {"content-type": "application/json", **(headers or {})}
    return request("POST", INVOCATIONS, json.dumps(event).encode(), sent)


def http_event(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A Function URL's event (payload format 2.0)."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": dict(headers or {}),
        "requestContext": {
            "stage": "$default",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
        },
        "body": base64.b64encode(body).decode() if body else None,
        "isBase64Encoded": bool(body),
    }


def answer(response: Response) -> Response:
    """The HTTP response inside an invocation's result. Raises ValueError where the invocation failed."""
    try:
        document = json.loads(response.body)
    except ValueError:
        raise ValueError(f"the invocation gave {response.body[:300]!r}") from None
    if not isinstance(document, dict) or "statusCode" not in document:
        reason = document.get("errorMessage") if isinstance(document, dict) else None
        raise ValueError(f"the invocation failed: {reason or str(document)[:300]}")
    raw = document.get("body") or ""
    body = base64.b64decode(raw) if document.get("isBase64Encoded") else raw.encode()
    return Response(int(document["statusCode"]), document.get("headers") or {}, body)
