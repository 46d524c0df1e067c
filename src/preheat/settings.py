"""Settings: read once by an entry point from an environ mapping, frozen, handed down.

Nothing below an entry point looks at ``os.environ``. An unknown ``PREHEAT_`` name is an error that
offers the nearest known one, because a misspelt limit is worse than none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from .errors import SettingsError
from .providers import NAMES

PREFIX = "PREHEAT_"


class Settings(NamedTuple):
    artifact: str = ""
    """The artifact folder, a function's ``app.py``, or a place in a store: ``s3://bucket/prefix/name@``
    and an alias, a version or ``sha256:`` with the whole version."""
    models: str = ""
    """Further models of the function, loaded when they are first asked for: artifact folders, folders of such
    folders, and places in a store, with commas between them."""
    models_bytes: int = 0
    """What the loaded ones of PREHEAT_MODELS may take together, in bytes, by what their builds measured; the
    least recently used go first. The function's own model is not in it. 0: half of the memory that the
    control group, or the machine, has."""
    cache: str = ""
    """Folder for what may be thrown away: verification stamps, and files fetched from a store. Default: the
    user's cache folder."""
    cache_bytes: int = 10 * 1024**3
    """What fetched files may take in the cache, in bytes; the least recently used go first, never those in
    use."""
    verify: str = "fetch"
    """``fetch``: hash a file once, then trust it while its inode, size and times stand; ``always``: hash
    the chosen variant's files at every start."""
    fetch_timeout: float = 120.0
    """Seconds after which fetching from a store, retries and waiting for another process included, is given
    up."""
    stale: float = 0.0
    """Where the store cannot be reached: for how many seconds a start may go on with what this host read of
    an alias last. 0: it does not start."""
    trust: str = ""
    """Public keys, with commas between them: PEM files, or ``ed25519:`` and the key in base64. Where it is
    set, nothing runs that none of them signed."""
    epoch: int = 0
    """The lowest epoch of an alias that is accepted: no store can show an older state than this."""
    high_water: str = ""
    """Where the highest epoch seen is kept: a folder that outlives the instance, or a store's URL. Default:
    the cache."""
    variant: str = ""
    """Force one variant by name. Default: the best whose requirements hold on this machine."""
    objective: str = ""
    """``cold``, ``balanced`` or ``warm``: what "best" means. Default: what the artifact was built for."""
    tiered: str = "auto"
    """Whether the variant that opens soonest answers first and the one that runs fastest takes over:
    ``auto``: where the artifact's measurements say that it pays, there is memory for it, and the platform
    leaves the CPU to an instance between requests (not Lambda, not Cloud Run); ``on``, ``off``."""
    threads: int = 0
    """Intra-op threads of the session. 0: one per usable CPU."""
    concurrency: int = 0
    """Requests that run at once. 0: one per usable CPU."""
    queue: int = 128
    """Requests that may wait, for readiness or for a turn; one more is shed."""
    timeout: float = 60.0
    """Seconds from a request's arrival to its answer, unless it brings a shorter time itself."""
    grace: float = 0.0
    """Seconds that accepted requests have to finish after SIGTERM. 0: 25, on Cloud Run 8, which kills after
    10."""
    batch_ms: float = -1.0
    """Milliseconds that a request may wait for others to be run with it. 0: each runs alone; -1: what the
    planner's measurements say."""
    batch_tenants: str = "same"
    """``same``: only requests of one tenant are run together; ``any``: those of all."""
    rate: float = 0.0
    """Requests a second that each tenant may send; 0: any number."""
    burst: int = 0
    """How many of them may come at once. 0: as many as in one second."""
    max_bytes: int = 0
    """Largest request body, in bytes. 0: the artifact's own limit."""
    memory_bytes: int = 0
    """What all runs together may allocate beside the weights, in bytes; a request that needs more gets 413.
    0: three quarters of the memory that the control group, or the machine, has."""
    ledger: str = ""
    """Where the records of requests with an Idempotency-Key lie: ``sqlite:///file``, ``dynamodb://table``,
    ``redis://host``, ``postgresql://host/database``. Default: a SQLite file in the cache, for one host."""
    ledger_blobs: str = ""
    """A folder or a store's URL for outcomes that are too large for the ledger."""
    ledger_down: str = "fail"
    """What a keyed request gets while the ledger cannot be reached: ``fail``: 503 and Retry-After; ``open``:
    it runs without its key."""
    idempotency: str = "optional"
    """``off``, ``optional`` or ``required``: what an Idempotency-Key means; per route after commas:
    ``optional,/predict=required``."""
    idempotency_expiry: float = 86400.0
    """Seconds for which an outcome is kept and replayed."""
    lease: float = 10.0
    """Seconds after which the key of an instance that died may be run by another; renewed while it lives."""
    api_keys: str = ""
    """A JSON file of tenants and the digests of their keys, ``{"acme": "sha256:…"}``; ``preheat key`` makes
    an entry. Inference then wants ``Authorization: Bearer KEY`` or ``x-api-key: KEY``."""
    jwt_keys: str = ""
    """Keys that tokens (JWT) are verified with: a JWKS file, an https URL of one, or a PEM file of a public
    key. Inference then wants ``Authorization: Bearer TOKEN``."""
    jwt_issuer: str = ""
    """The issuer that tokens must have."""
    jwt_audience: str = ""
    """The audience that tokens must be for; several with commas, ``*`` where the issuer writes none."""
    jwt_claim: str = "sub"
    """The claim of a token that names its tenant, in API Gateway's verified tokens too."""
    isolate: str = ""
    """``tenant``: an instance for each tenant, and none that serves two. A server that is not told whose it
    is does not start."""
    tenant: str = ""
    """The one tenant that this instance is for, as it is authenticated: ``key:acme``. Requests of any other
    get 403."""
    access_log: str = "off"
    """``on``: one JSON line for each request on standard output, with its tenant, outcome, times and trace;
    none for probes and scrapes."""
    metrics_tenants: int = 100
    """How many tenants ``/metrics`` tells apart, first come; the others share a label. 0: none, so that no
    tenant's name is in it."""
    trace_flush: str = "later"
    """On Lambda: ``answer``: spans are sent before each answer, within 2 seconds; ``later``: while later
    requests run, and what is left when the instance ends may be lost."""
    not_restored: str = ""
    """Why a snapshot was not restored, and the start is a fresh one; told in its report. Set by
    `preheat snapshot restore`."""
    require_provider: str = ""
    """Refuse to start on any other execution provider than this: ``tensorrt``, ``cuda``, ``cpu``, or
    onnxruntime's name of one."""
    device_ahead: str = "off"
    """``on``: where a GPU will be used, CUDA's context is made and the weights are sent to the device while
    the imports run; what fails is told in the report, and the start goes on without. No GPU has measured
    it yet."""
    host: str = "0.0.0.0"  # noqa: S104 - a container is reached from outside
    """Address that the server listens on."""
    port: int = 8080
    """Port; ``PORT``, the platforms' own name, is honoured too and wins."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read ``PREHEAT_*`` and ``PORT``. Raises SettingsError for a name or value that is not known."""
        known = {PREFIX + field.upper(): field for field in cls._fields}
        values: dict[str, object] = {}
        for name in sorted(environ):
            if name.startswith(PREFIX):
                if name not in known:
                    raise SettingsError(f"{name} is not a setting of Preheat{_nearest(name, list(known))}")
                field = known[name]
                values[field] = _convert(name, environ[name], type(cls._field_defaults[field]))
        if environ.get("PORT"):
            values["port"] = _convert("PORT", environ["PORT"], int)
        settings = cls(**values)  # type: ignore[arg-type]  # converted to each field's own type above
        settings._check()
        return settings

    def _check(self) -> None:
        _one_of("PREHEAT_VERIFY", self.verify, ("fetch", "always"))
        _one_of("PREHEAT_TIERED", self.tiered, ("auto", "on", "off"))
        if self.tiered == "on" and self.variant:
            raise SettingsError(
                "PREHEAT_TIERED=on opens two variants, and PREHEAT_VARIANT names the only one"
            )
        _one_of("PREHEAT_BATCH_TENANTS", self.batch_tenants, ("same", "any"))
        _one_of("PREHEAT_LEDGER_DOWN", self.ledger_down, ("fail", "open"))
        _one_of("PREHEAT_ACCESS_LOG", self.access_log, ("off", "on"))
        _one_of("PREHEAT_DEVICE_AHEAD", self.device_ahead, ("off", "on"))
        _one_of("PREHEAT_ISOLATE", self.isolate, ("", "tenant"))
        _one_of("PREHEAT_TRACE_FLUSH", self.trace_flush, ("later", "answer"))
        _one_of("PREHEAT_OBJECTIVE", self.objective, ("", "cold", "balanced", "warm"))
        if not self.require_provider.endswith("ExecutionProvider"):
            _one_of("PREHEAT_REQUIRE_PROVIDER", self.require_provider, ("", *NAMES))
        for name in (
            "threads",
            "concurrency",
            "queue",
            "timeout",
            "grace",
            "max_bytes",
            "memory_bytes",
            "models_bytes",
            "cache_bytes",
            "epoch",
            "fetch_timeout",
            "idempotency_expiry",
            "rate",
            "burst",
            "stale",
            "metrics_tenants",
        ):
            if getattr(self, name) < 0:
                raise SettingsError(f"{PREFIX}{name.upper()} must not be negative")
        if self.lease < 0.1:
            raise SettingsError("PREHEAT_LEASE must be at least 0.1 seconds")
        self.idempotency_modes()
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"PORT must lie between 0 and 65535, not {self.port}")

    def idempotency_modes(self) -> dict[str, str]:
        """``off``, ``optional`` or ``required`` by route; under the empty name for every other route.

        Raises SettingsError for another word.
        """
        modes = {"": "optional"}
        for part in self.idempotency.split(","):
            route, _, mode = part.strip().rpartition("=")
            if mode not in ("off", "optional", "required") or (route and not route.startswith("/")):
                raise SettingsError(
                    "PREHEAT_IDEMPOTENCY must be off, optional or required, or /route= and one of these, "
                    f"separated by commas; not {part.strip()!r}"
                )
            modes[route] = mode
        return modes

    def thread_count(self, environ: Mapping[str, str]) -> int:
        """Threads of the session; 0 for one a CPU. On Lambda the memory size decides what is paid for: one
        vCPU at 1,769 MB, and in proportion, whatever the number of CPUs that are seen (AWS Lambda developer
        guide, "Configure Lambda function memory")."""
        memory = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
        if self.threads or not memory.isdigit():
            return self.threads
        return max(int(memory) // 1769, 1)

    def cache_dir(self, environ: Mapping[str, str]) -> str:
        """The cache folder: PREHEAT_CACHE, ``/tmp`` on Lambda, Knative and Cloud Run, else the user's cache
        folder."""
        if self.cache:
            return self.cache
        if environ.get("AWS_LAMBDA_FUNCTION_NAME") or environ.get("K_SERVICE"):
            return "/tmp/preheat"  # noqa: S108 - the one writable folder there, private to the instance
        base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or "/tmp", ".cache")  # noqa: S108
        return os.path.join(base, "preheat")


def _convert(name: str, text: str, to: type) -> object:
    try:
        value = text if to is str else to(text)
        if value != value:  # NaN, which every comparison lets through
            raise ValueError
        return value
    except ValueError:
        kind = "a whole number" if to is int else "a number"
        raise SettingsError(f"{name} must be {kind}, not {text!r}") from None


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingsError(f"{name} must be one of {', '.join(a for a in allowed if a)}, not {value!r}")


def _nearest(name: str, known: list[str]) -> str:
    import difflib  # only on the way to an error

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; did you mean {close[0]}?" if close else ""
