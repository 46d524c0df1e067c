"""`preheat up`: the function scaled to zero by its control API, confirmed by its status."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import quote, urlsplit

from ...errors import UsageError
from . import NotColdError

SCALE_S = 120.0
"""A drain may take as long as its last request."""


class Up:
    """``function``: empty for the one that the target's path names, or the only one that is up."""

    def __init__(self, function: str, target: str) -> None:
        parts = urlsplit(target)
        self._function, self._path = function, parts.path
        self._url = f"{parts.scheme}://{parts.netloc}"

    def force(self) -> str:
        """Raises NotColdError where the gateway refuses, or still shows an instance afterwards."""
        name = self._function or self._named()
        path = f"/_preheat/functions/{quote(name, safe='')}/scale"
        status, answer = self._ask("POST", path, {"instances": 0})
        if status != 200:
            raise NotColdError(f"{self._url}{path} answered {status}: {answer.get('error', answer)}")
        deadline = time.monotonic() + SCALE_S
        while left := self._instances(name):
            if time.monotonic() > deadline:
                raise NotColdError(
                    f"{name} still has instances after it was scaled to zero: {', '.join(left)}"
                )
            time.sleep(0.05)
        return f"GET {self._url}/_preheat/status: {name} has no instance"

    def check(self) -> None:
        """Raises UsageError for a function that is not up, NotColdError where that cannot be told."""
        functions = self._functions()
        if (self._function or self._named()) not in functions:
            raise UsageError(f"--cold up:{self._function}: only {', '.join(functions)} are up")

    def _named(self) -> str:
        functions = self._functions()
        first = self._path.strip("/").partition("/")[0]
        if first in functions:
            return first
        if len(functions) == 1:
            return next(iter(functions))
        raise UsageError(f"--cold up:FUNCTION must name one of: {', '.join(functions) or 'none is up'}")

    def _instances(self, name: str) -> list[str]:
        functions = self._functions()
        if name not in functions:
            raise NotColdError(
                f"{self._url} has no function {name!r}; there are {', '.join(functions) or 'none'}"
            )
        return [str(one.get("name")) for one in functions[name].get("instances", ())]

    def _functions(self) -> dict[str, Any]:
        status, answer = self._ask("GET", "/_preheat/status")
        functions = answer.get("functions")
        if status != 200 or not isinstance(functions, dict):
            raise NotColdError(f"{self._url}/_preheat/status answered {status}; is it `preheat up`?")
        return functions

    def _ask(self, method: str, path: str, document: Any = None) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(self._url)
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = make(str(parts.hostname), parts.port, timeout=SCALE_S)
        try:
            body = None if document is None else json.dumps(document).encode()
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            response = connection.getresponse()
            found = json.loads(response.read() or b"{}")
        except ValueError:
            raise NotColdError(f"{self._url}{path} did not answer JSON; is it `preheat up`?") from None
        except (OSError, http.client.HTTPException) as error:
            raise NotColdError(f"{self._url}{path} could not be asked: {error}") from None
        finally:
            connection.close()
        return response.status, found if isinstance(found, dict) else {}


def force_cold(name: str, what: str, url: str) -> Up:  # noqa: ARG001 - what every plug-in is given
    made = Up(what, url)
    made.check()
    return made
