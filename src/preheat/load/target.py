"""The target of a run: its URL, whether anybody is there, and what a wrong one looks like."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..errors import PreheatError, UsageError
from ..measure.client import named
from .samples import Sample
from .scenario import Scenario

CONNECT_S = 10.0
LOOKED_AT = 3
"""A target whose first answers are all of one wrong kind is the wrong target."""


class TargetError(PreheatError):
    """What was named is not there, or is not what answers."""

    code = "target"


class Target(NamedTuple):
    url: str
    """Without a slash at its end."""
    headers: Mapping[str, str]
    """Sent with every request; never recorded, since they may hold credentials."""

    def as_work(self, scenario: Scenario, signed: str = "") -> dict[str, Any]:
        return {
            "url": self.url,
            "prefix": urlsplit(self.url).path,
            "headers": dict(self.headers),
            "timeout_s": scenario.timeout_s,
            "connections": scenario.connections,
            "sign": signed,
        }


def target(url: str, headers: Sequence[str]) -> Target:
    """Raises UsageError for what is no URL, or no header."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--target {url!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError(f"--target must be an http:// or https:// URL, not {url!r}")
    if parts.query or parts.fragment or parts.username:
        raise UsageError(
            "--target takes host, port and path; give credentials with --header, a query in the scenario"
        )
    return Target(url.rstrip("/"), named(headers))


def reach(target: Target) -> None:
    """Connect once and send nothing: what is down, has no name or no valid certificate is said before the
    run, and no instance is started by it. Raises TargetError."""
    parts = urlsplit(target.url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((host, port), CONNECT_S) as plain:
            if parts.scheme == "https":
                with ssl.create_default_context().wrap_socket(plain, server_hostname=host):
                    pass
    except socket.gaierror as error:
        raise TargetError(f"{host} has no address: {error.strerror}; check the host in --target") from None
    except ssl.SSLCertVerificationError as error:
        raise TargetError(
            f"{target.url}: its certificate is not valid here: {error.verify_message}; name the host that it "
            "was issued for, or add its authority to the system's (SSL_CERT_FILE)"
        ) from None
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        raise TargetError(
            f"{target.url} does not speak TLS as asked ({reason}); is it an http:// URL?"
        ) from None
    except ConnectionRefusedError:
        raise TargetError(f"{target.url} is down: nothing listens on {host}, port {port}") from None
    except OSError as error:
        raise TargetError(f"{target.url} cannot be reached: {error.strerror or error}") from None


def wrong(url: str, seen: Sequence[Sample]) -> str:
    """Why the first answers say that this is the wrong target; empty while they do not."""
    final = [one for one in seen if one.final][:LOOKED_AT]
    if len(final) < LOOKED_AT:
        return ""
    kinds = {one.outcome for one in final}
    if kinds == {"redirected"}:
        return f"{url} redirects {final[0].error}; redirects are not followed, name that URL"
    if kinds == {"html"}:
        return f"{url} answers HTML where inference was asked for; is it the page of something else?"
    if {one.status for one in final} == {404}:
        return f"{url} answers 404: the scenario's paths are not there; check the path in --target"
    if kinds <= {"tls", "refused", "unresolved"}:
        return f"{url} does not answer: {final[0].error}"
    if kinds == {"broken"}:
        return f"{url} does not answer HTTP/1.1: {final[0].error}"
    return ""
