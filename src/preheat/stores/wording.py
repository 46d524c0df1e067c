"""obstore's exceptions in words, and as errors of ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ..errors import ConflictError, StoreError

_DENIED = (
    *("status code: 403", "status code: 401", "Permission denied", "Read-only file system"),
    *("<Code>ExpiredToken<", "<Code>InvalidToken<"),
)
"""What obstore's other errors say where it is about a right: a listing's, a folder's, a token's."""


class NotPartialError(StoreError):
    """The server answers a range with 200, which obstore refuses: rclone's does."""

    code = "not_partial"


class MissingError(StoreError):
    """There is no such key; or, with the code ``no_bucket``, no such bucket."""

    code = "not_found"


@contextlib.contextmanager
def said(root: str, key: str) -> Iterator[None]:
    """obstore's exceptions as ours; ``code`` is "store" where another try may help."""
    from obstore import exceptions as known

    where = f"{root}/{key}".rstrip("/")
    try:
        yield
    except FileNotFoundError as error:
        bucket = "NoSuchBucket" in str(error)
        raise MissingError(
            f"{root}: the bucket does not exist" if bucket else f"{where} does not exist",
            code="no_bucket" if bucket else "not_found",
        ) from error
    except (known.PermissionDeniedError, known.UnauthenticatedError, PermissionError) as error:
        raise StoreError(f"{where}: permission denied: {reason(error)}", code="denied") from error
    except (known.AlreadyExistsError, known.PreconditionError) as error:
        raise ConflictError(f"{where} changed meanwhile") from error
    except known.NotSupportedError as error:
        raise StoreError(f"{where}: {reason(error)}", code="unsupported") from error
    except (known.BaseError, OSError, ValueError, TimeoutError) as error:
        text = str(error)
        if "NotPartial" in text:
            raise NotPartialError(f"{where}: the server does not answer ranges") from error
        if "MissingAccessKeyId" in text or "169.254." in text or "metadata.google" in text:
            raise StoreError(
                f"{root}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or those of your "
                "cloud), name a profile of ~/.aws/credentials with AWS_PROFILE, give the instance a role, or "
                "set AWS_SKIP_SIGNATURE=true for a public bucket",
                code="no_credentials",
            ) from error
        if "redirect" in text.lower() or "AuthorizationHeaderMalformed" in text:
            raise StoreError(
                f"{root}: the bucket is in another region; set AWS_REGION to its own", code="region"
            ) from error
        if any(sign in text for sign in _DENIED):
            raise StoreError(f"{where}: permission denied: {reason(error)}", code="denied") from error
        if "error sending request" in text:
            server = re.search(r"https?://[^/\s]+", text)
            hint = "; is AWS_ENDPOINT_URL right?" if server and "amazonaws.com" not in server[0] else ""
            raise StoreError(f"{where}: no answer from {server[0] if server else root}{hint}") from error
        raise StoreError(f"{where}: {reason(error)}") from error


def reason(error: BaseException | str) -> str:
    """A message in one line: what the server said, without obstore's debug output after it."""
    text = str(error).split("Debug source:")[0]
    for tag in ("Message", "Code"):
        _, found, after = text.partition(f"<{tag}>")
        if found and (said := after.partition("<")[0].strip()):
            return said
    line = " ".join(text.split()) or type(error).__name__
    for prefix in ("Generic S3 error: ", "Generic GCS error: ", "Generic MicrosoftAzure error: "):
        line = line.removeprefix(prefix)
    return line[:300]
