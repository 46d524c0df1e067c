"""What the OpenAPI document says of each hot route: summaries, bodies, answers. Loaded with FastAPI only."""

from __future__ import annotations

from typing import Any, NamedTuple

Schema = dict[str, Any]


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


_TEXT: Schema = {"type": "string"}
_ANY: Schema = {}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_DATATYPE: Schema = {
    "type": "string",
    "enum": [
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64", "BYTES"),
    ],
}
_INDEX = {
    "type": "array",
    "items": _object(
        ["name", "version", "state", "reason"], name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT
    ),
}
_PARAMETERS: Schema = {"type": "object", "additionalProperties": True}
_ERROR = _object(["error", "code"], error=_TEXT, code=_TEXT)
_READY = _object(["ready"], ready={"type": "boolean"}, name=_TEXT, error=_TEXT, code=_TEXT)
_METADATA_TENSOR = _object(
    ["name", "datatype", "shape"],
    name=_TEXT,
    datatype=_TEXT,
    shape={"type": "array", "items": {"type": "integer"}},
)
_METADATA = _object(
    ["name", "versions", "platform", "inputs", "outputs"],
    name=_TEXT,
    versions={"type": "array", "items": _TEXT},
    platform=_TEXT,
    inputs={"type": "array", "items": _METADATA_TENSOR},
    outputs={"type": "array", "items": _METADATA_TENSOR},
)
_TENSOR = _object(
    ["name", "shape", "datatype"],
    name=_TEXT,
    shape=_SHAPE,
    datatype=_DATATYPE,
    parameters=_PARAMETERS,
    data={"type": "array", "items": {}},
)
_INFER = _object(
    ["inputs"],
    id=_TEXT,
    parameters=_PARAMETERS,
    inputs={"type": "array", "minItems": 1, "items": _TENSOR},
    outputs={"type": "array", "items": _object(["name"], name=_TEXT, parameters=_PARAMETERS)},
)
_INFERRED = _object(
    ["model_name", "outputs"],
    model_name=_TEXT,
    model_version=_TEXT,
    id=_TEXT,
    outputs={"type": "array", "items": _TENSOR},
)
_EMBED = _object(
    ["input"],
    input={
        "oneOf": [
            _TEXT,
            {"type": "array", "minItems": 1, "items": _TEXT},
            {"type": "array", "minItems": 1, "items": {"type": "integer"}},
            {"type": "array", "minItems": 1, "items": {"type": "array", "items": {"type": "integer"}}},
        ]
    },
    model=_TEXT,
    encoding_format={"type": "string", "enum": ["float", "base64"]},
    dimensions={"type": "integer", "minimum": 1},
    user=_TEXT,
)
_EMBEDDED = _object(
    ["object", "data", "model", "usage"],
    object={"const": "list"},
    data={
        "type": "array",
        "items": _object(
            ["object", "index", "embedding"],
            object={"const": "embedding"},
            index={"type": "integer"},
            embedding={"oneOf": [{"type": "array", "items": {"type": "number"}}, _TEXT]},
        ),
    },
    model=_TEXT,
    usage=_object(
        ["prompt_tokens", "total_tokens"],
        prompt_tokens={"type": "integer"},
        total_tokens={"type": "integer"},
    ),
)


class Doc(NamedTuple):
    """The documentation of one route."""

    name: str
    summary: str
    answer: Schema
    errors: tuple[int, ...] = ()
    request: Schema | None = None
    binary: bool = False
    """Whether body and answer may be raw bytes too."""
    deferred: bool = False
    """Whether the answer may be that there is none yet."""
    empty: bool = False
    """Whether the answer is 204, without a body."""
    types: tuple[str, ...] = ("application/json",)
    """Content types of the answer."""

    def openapi(self) -> Schema:
        """The parts of an operation that FastAPI is given as they are."""
        types = ["application/json", *(["application/octet-stream"] if self.binary else [])]
        extra: Schema = {}
        if 504 in self.errors:
            extra["parameters"] = _TIMEOUTS
        if self.request is not None:
            extra["parameters"] = [*_HEADERS, *_TIMEOUTS]
            content = {kind: {"schema": self.request if kind.endswith("json") else {}} for kind in types}
            extra["requestBody"] = {"required": True, "content": content}
        return extra

    def responses(self) -> dict[int | str, Schema]:
        """Every status that the route answers with."""
        ok: Schema = {kind: {"schema": self.answer} for kind in self.types}
        if self.binary and self.request is not None:
            ok["application/octet-stream"] = {"schema": {}}
        error = {"application/json": {"schema": _ERROR}}
        found: dict[int | str, Schema] = {}
        if self.empty:
            found[204] = {"description": "Done"}
        else:
            found[200] = {"description": "The answer", "content": ok}
        if self.request is not None or self.deferred:
            later = {"application/json": {"schema": _LATER}}
            found[202] = {"description": "It is answered later, at Location", "content": later}
        for status in self.errors:
            found[status] = {"description": _REASONS[status], "content": error}
        return found


_LATER = _object(["id", "status"], id=_TEXT, status={"type": "string", "enum": ["running", "waiting"]})
_HEADERS: list[Schema] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same for every try of one request: it runs once, and its answer is replayed",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    {
        "name": "Prefer",
        "in": "header",
        "description": "wait=N: wait N seconds for the same request; respond-async: answer at Location",
        "schema": _TEXT,
    },
]
_TIMEOUTS: list[Schema] = [
    {
        "name": "x-preheat-timeout",
        "in": "header",
        "description": "Seconds from arrival after which no answer is wanted; the shortest limit counts",
        "schema": {"type": "string", "pattern": r"^[0-9]{1,8}(\.[0-9]{1,9})?$"},
    },
    {
        "name": "grpc-timeout",
        "in": "header",
        "description": "The same as gRPC writes it: at most eight digits, and a unit of H, M, S, m, u, n",
        "schema": {"type": "string", "pattern": "^[0-9]{1,8}[HMSmun]$"},
    },
]
_REASONS = {
    400: "The request is malformed or does not fit the model",
    404: "There is no such model or version",
    413: "The request is over a limit",
    415: "The content type or encoding is not spoken here",
    422: "The model refuses the input",
    401: "Credentials are wanted",
    403: "The instance is for another tenant",
    409: "A request with this idempotency key runs; see Retry-After",
    410: "The request was called off",
    500: "It failed for good",
    429: "The tenant sends more than it may; see Retry-After",
    503: "Not ready, shedding or shutting down; see Retry-After",
    504: "The deadline passed first",
}
_CALL = (400, 401, 403, 404, 409, 410, 413, 415, 422, 429, 503, 504)
_LOOK = (400, 401, 403, 404, 422, 503, 504)

_REQUEST = "v2/requests/{id}"

DOCS = {
    ("GET", "v2"): Doc("server_metadata", "Name, version and extensions of the server", {"type": "object"}),
    ("GET", "v2/health/live"): Doc(
        "server_live", "Whether the process runs", _object(["live"], live={"type": "boolean"})
    ),
    ("GET", "v2/health/ready"): Doc("server_ready", "Whether the golden check has passed", _READY, (503,)),
    ("GET", "v2/models/{model}"): Doc("model_metadata", "The model's inputs and outputs", _METADATA, _LOOK),
    ("GET", "v2/models/{model}/ready"): Doc("model_ready", "Whether the model answers", _READY, _LOOK),
    ("POST", "v2/models/{model}/infer"): Doc(
        "model_infer", "Run the model on tensors, JSON or binary", _INFERRED, _CALL, _INFER, binary=True
    ),
    ("GET", "v2/models/{model}/versions/{version}"): Doc(
        "model_version_metadata", "The same, of a version", _METADATA, _LOOK
    ),
    ("GET", "v2/models/{model}/versions/{version}/ready"): Doc(
        "model_version_ready", "The same, of a version", _READY, _LOOK
    ),
    ("POST", "v2/models/{model}/versions/{version}/infer"): Doc(
        "model_version_infer", "The same, of a version", _INFERRED, _CALL, _INFER, binary=True
    ),
    ("POST", "v2/models/{model}/predict"): Doc(
        "model_predict", "The task's natural JSON, of a model", _ANY, _CALL, _ANY, binary=True
    ),
    ("GET", "v2/models/{model}/coldstart"): Doc(
        "model_coldstart", "How a model was loaded here, by phase", {"type": "object"}, _LOOK
    ),
    ("POST", "v2/repository/index"): Doc(
        "repository_index",
        "The models, and whether they are loaded",
        _INDEX,
        (400, 401, 403, 413, 415, 503, 504),
    ),
    ("POST", "v2/repository/models/{model}/load"): Doc(
        "repository_load", "Load a model, if it is not", {"type": "object"}, _LOOK
    ),
    ("POST", "v2/repository/models/{model}/unload"): Doc(
        "repository_unload", "Let go of a model that nobody uses", {"type": "object"}, _LOOK
    ),
    ("POST", "v1/embeddings"): Doc("embeddings", "Embed text, in OpenAI's shape", _EMBEDDED, _CALL, _EMBED),
    ("POST", "predict"): Doc("predict", "The task's natural JSON", _ANY, _CALL, _ANY, binary=True),
    ("GET", "coldstart"): Doc(
        "coldstart", "How this instance started, by phase", {"type": "object"}, (400, 503, 504)
    ),
    ("GET", "metrics"): Doc(
        "metrics",
        "What was counted here, for Prometheus",
        _TEXT,
        (404,),
        types=("text/plain", "application/openmetrics-text"),
    ),
    ("GET", _REQUEST): Doc(
        "request_status",
        "The answer of a deferred request",
        _ANY,
        (401, 403, 404, 410, 422, 500, 503),
        deferred=True,
    ),
    ("DELETE", _REQUEST): Doc(
        "request_cancel",
        "Call a deferred request off, or forget its answer",
        _ANY,
        (401, 403, 404, 503),
        empty=True,
    ),
}
"""By method and path; every hot route has one."""
