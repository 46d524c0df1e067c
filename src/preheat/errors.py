"""Every error that Preheat raises on purpose.

::

    PreheatError                      something a person can act on; the message says what to do
    ├── UsageError                    the command, call or setting is wrong
    │   └── SettingsError             a PREHEAT_ variable is unknown or malformed
    ├── SourceError                   the model given to `build` cannot be used
    ├── BuildError                    the build could not be finished
    │   └── DriftError                a variant's answers drift past the tolerance
    ├── DeploymentError               the cluster refuses, cannot be reached, or does not get ready
    ├── ArtifactError                 the artifact cannot be opened
    │   ├── ManifestError             manifest.json is malformed, or of another schema
    │   ├── IntegrityError            a file is missing, changed, extra or oversized
    │   ├── StoreError                the object store or the cache cannot be read or written
    │   │   └── ConflictError         an alias changed while it was being changed
    │   └── TrustError                a signature is missing, wrong, or of an epoch that has passed
    ├── EngineError                   no session could be opened or run
    │   └── GoldenError               the session gives other answers than the manifest's
    ├── PreemptedError                a run was ended so that another tenant's goes first
    ├── RequestError                  the client sent something that cannot be answered
    │   ├── InvalidRequestError       malformed
    │   ├── NotFoundError             no such model, version or route
    │   ├── TooLargeError             over a limit of the artifact or the server
    │   ├── CancelledError            the request was called off
    │   ├── UnauthenticatedError      no credentials, or none that are known
    │   ├── ForbiddenError            known credentials, and not for this instance
    │   ├── UnsupportedMediaError     a content type or encoding that is not spoken here
    │   └── UnprocessableError        well formed, and the model refuses it
    └── UnavailableError              the server cannot answer now
        ├── ShedError                 the queue is full, or the server is draining
        ├── FailedStartError          the model did not come up
        ├── CrashedError              an instance ended with the request, which may have run
        ├── TimedOutError             the deadline passed
        ├── ThrottledError            the tenant sends more than it may
        ├── InProgressError           another request with the same idempotency key runs
        └── LedgerError               the ledger cannot be reached or refuses

A transport maps these to its own statuses, at its edge; nothing here knows HTTP.
This module imports nothing.
"""


class PreheatError(Exception):
    """Base of the tree. ``code`` is a stable slug for programs, the message is for people."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class UsageError(PreheatError):
    code = "usage"


class SettingsError(UsageError):
    code = "settings"


class SourceError(PreheatError):
    code = "source"


class BuildError(PreheatError):
    code = "build"


class DriftError(BuildError):
    code = "drift"


class DeploymentError(PreheatError):
    code = "deployment"


class ArtifactError(PreheatError):
    code = "artifact"


class ManifestError(ArtifactError):
    code = "manifest"


class IntegrityError(ArtifactError):
    code = "integrity"


class StoreError(ArtifactError):
    code = "store"


class ConflictError(StoreError):
    code = "conflict"


class TrustError(ArtifactError):
    code = "untrusted"


class EngineError(PreheatError):
    code = "engine"


class GoldenError(EngineError):
    code = "golden"


class RequestError(PreheatError):
    code = "rejected"


class InvalidRequestError(RequestError):
    code = "invalid_request"


class NotFoundError(RequestError):
    code = "not_found"


class TooLargeError(RequestError):
    code = "too_large"


class UnsupportedMediaError(RequestError):
    code = "unsupported_media_type"


class CancelledError(RequestError):
    code = "cancelled"


class UnauthenticatedError(RequestError):
    code = "unauthenticated"


class ForbiddenError(RequestError):
    code = "forbidden"


class UnprocessableError(RequestError):
    code = "unprocessable"


class UnavailableError(PreheatError):
    code = "unavailable"

    def __init__(self, message: str, *, code: str | None = None, retry_after: int = 1) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after
        """Seconds after which another try makes sense."""


class ShedError(UnavailableError):
    code = "shed"


class FailedStartError(UnavailableError):
    code = "failed_start"


class CrashedError(UnavailableError):
    code = "crashed"


class PreemptedError(PreheatError):
    """A run was ended so that another tenant's goes first; it is begun again after that."""


class TimedOutError(UnavailableError):
    code = "timed_out"


class ThrottledError(UnavailableError):
    code = "throttled"


class InProgressError(UnavailableError):
    code = "in_progress"


class LedgerError(UnavailableError):
    code = "ledger_unavailable"
