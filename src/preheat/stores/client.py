"""obstore's client for a store, as the platforms' own variables say."""

from __future__ import annotations

import os
from typing import Any

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

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    options: dict[str, Any] = {"timeout": timedelta(seconds=seconds), "connect_timeout": timedelta(seconds=5)}
    more: dict[str, Any] = {}
    if scheme == "s3":
        options["allow_http"] = endpoint.startswith("http://")
        if endpoint:
            more["endpoint"] = endpoint
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        more["region"] = region or "us-east-1"
    # Retries are ours: obstore's know nothing of a body that was cut, nor of our deadline.
    retries: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=seconds)}
    return from_url(root, client_options=options, retry_config=retries, **more)  # type: ignore[call-overload]
