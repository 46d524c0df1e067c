"""obstore's client for a store, as the platforms' own variables say."""

from __future__ import annotations

import os
from typing import Any

from .aws import configured
from .wording import MissingError


def connect(root: str, seconds: float, *, make: bool) -> Any:
    """``seconds``: after which a request, its body included, is given up; ``make`` a missing folder."""
    from obstore.store import from_url

    scheme, _, rest = root.partition("://")
    if scheme == "file":
        if not make and not os.path.isdir(rest):
            raise MissingError(f"{root} does not exist", code="no_bucket")
        return from_url(root, mkdir=make)
    from datetime import timedelta

    options: dict[str, Any] = {"timeout": timedelta(seconds=seconds), "connect_timeout": timedelta(seconds=5)}
    more: dict[str, str] = {}
    if scheme == "s3":
        more = configured(os.environ)
        options["allow_http"] = more.get("endpoint", "").startswith("http://")
    # Retries are ours: obstore's know nothing of a body that was cut, nor of our deadline.
    retries: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=seconds)}
    return from_url(root, client_options=options, retry_config=retries, **more)  # type: ignore[call-overload]
