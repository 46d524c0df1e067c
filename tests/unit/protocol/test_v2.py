"""The codec against tritonclient's own request builder and response parser, and against hostile bodies."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from preheat import __version__
from preheat.errors import InvalidRequestError, RequestError, TooLargeError, UnprocessableError
from preheat.manifest import Limits, TensorSpec
from preheat.protocol import v2
from preheat.tensors import BY_V2, Array, drift, pack, unpack

from ..test_manifest import manifest as any_manifest

X = TensorSpec("x", "FP32", ("batch", 3))
MODEL = any_manifest(
    name="model",
    version="sha256:" + "ab" * 32,
    inputs=(X, TensorSpec("s", "BYTES", ("batch", 1)), TensorSpec("flag", "BOOL", (2,))),
    outputs=(
        TensorSpec("y", "FP32", ("batch", 4)),
        TensorSpec("t", "BYTES", (None,)),
        TensorSpec("n", "INT64", ()),
    ),
    limits=Limits(bytes=10_000, rank=4, elements=100, batch=10),
)
INPUTS: dict[str, Array] = {
    "x": np.arange(6, dtype=np.float32).reshape(2, 3),
    "s": np.array([[b"hot"], ["kühl".encode()]], dtype=object),
    "flag": np.array([True, False]),
}
OUTPUTS: dict[str, Array] = {
    "y": np.array([[0.25, 3.5, -1, 3.5], [1, 2, 3, 4]], dtype=np.float32),
    "t": np.array(["ä", "", "c"], dtype=object),
    "n": np.array(-7, dtype=np.int64),
}


def triton(
    binary: bool, outputs: list[InferRequestedOutput] | None = None, **options: Any
) -> tuple[bytes, int | None]:
    """A request as the client library sends it."""
    inputs = []
    for name, array in INPUTS.items():
        entry = InferInput(name, list(array.shape), {"x": "FP32", "s": "BYTES", "flag": "BOOL"}[name])
        inputs.append(entry.set_data_from_numpy(array, binary_data=binary))
    body, length = InferenceServerClient.generate_request_body(inputs, outputs=outputs, **options)
    return body, length


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_requests_are_read(binary: bool) -> None:
    body, length = triton(binary, request_id="r1")
    request = v2.decode(body, length, MODEL)
    assert request.id == "r1"
    assert drift(request.inputs, INPUTS) == 0.0
    assert all(array.flags.aligned for array in request.inputs.values())
    # Without outputs, the client asks for all of them as binary data.
    assert request.outputs == tuple(v2.WantedOutput(name, True) for name in OUTPUTS)
    assert request.output_names == ["y", "t", "n"]


@pytest.mark.parametrize("y", [True, False])
@pytest.mark.parametrize("t", [True, False])
def test_tritons_parser_reads_the_answers(y: bool, t: bool) -> None:
    wanted = [InferRequestedOutput(n, binary_data=b) for n, b in (("t", t), ("y", y), ("n", y))]
    body, length = triton(True, wanted, request_id="r2")
    answer, header = v2.encode(v2.decode(body, length, MODEL), OUTPUTS, MODEL)
    assert (header is None) == (not y and not t)
    result = InferenceServerClient.parse_response_body(answer, header_length=header)
    assert np.array_equal(result.as_numpy("y"), OUTPUTS["y"])
    assert result.as_numpy("n") == -7
    assert [x if isinstance(x, str) else x.decode() for x in result.as_numpy("t")] == ["ä", "", "c"]
    document = result.get_response()
    assert (document["id"], document["model_name"], document["model_version"]) == ("r2", "model", "ab" * 32)
    assert [output["name"] for output in document["outputs"]] == ["t", "y", "n"]


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_classification(binary: bool) -> None:
    wanted = [InferRequestedOutput("y", binary_data=binary, class_count=3)]
    body, length = triton(True, wanted)
    request = v2.decode(body, length, MODEL)
    answer, header = v2.encode(request, OUTPUTS, MODEL, labels=["a", "b"])
    result = InferenceServerClient.parse_response_body(answer, header_length=header)
    texts = [[x if isinstance(x, str) else x.decode() for x in row] for row in result.as_numpy("y")]
    assert texts == [
        ["3.500000:1:b", "3.500000:3", "0.250000:0:a"],
        ["4.000000:3", "3.000000:2", "2.000000:1:b"],
    ]


def test_classes_of_integers_and_of_one_row() -> None:
    assert v2.classify(np.array([1, 5, 10, 4], dtype=np.uint8), 2).tolist() == ["10:2", "5:1"]
    assert v2.classify(np.array([[1, 5]], dtype=np.int64), 9).tolist() == [["5:1", "1:0"]]


def body(**changes: Any) -> dict[str, Any]:
    """A good request in JSON, changed; None leaves a field out."""
    document = {
        "id": "1",
        "inputs": [
            {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2.5, -3]},
            {"name": "s", "shape": [1, 1], "datatype": "BYTES", "data": ["hot"]},
            {"name": "flag", "shape": [2], "datatype": "BOOL", "data": [True, False]},
        ],
        **changes,
    }
    return {key: value for key, value in document.items() if value is not None}


def first(**changes: Any) -> dict[str, Any]:
    """A good request with its first input changed; None leaves a field out."""
    document = body()
    entry = {**document["inputs"][0], **changes}
    document["inputs"][0] = {key: value for key, value in entry.items() if value is not None}
    return document


def decode(document: Any, length: int | None = None) -> v2.InferRequest:
    return v2.decode(
        document if isinstance(document, bytes) else json.dumps(document).encode(), length, MODEL
    )


def test_a_plain_request_gets_all_outputs_in_json() -> None:
    request = decode(body(id=None, parameters={"timeout": 5, "mine": "kept"}, outputs=[]))
    assert request.id is None
    assert request.parameters == {"timeout": 5, "mine": "kept"}
    assert request.outputs == tuple(v2.WantedOutput(name, False) for name in OUTPUTS)
    answer, header = v2.encode(request, OUTPUTS, MODEL)
    assert header is None
    assert json.loads(answer) == {
        "model_name": "model",
        "model_version": "ab" * 32,
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 4], "data": [0.25, 3.5, -1, 3.5, 1, 2, 3, 4]},
            {"name": "t", "datatype": "BYTES", "shape": [3], "data": ["ä", "", "c"]},
            {"name": "n", "datatype": "INT64", "shape": [], "data": [-7]},
        ],
    }


def test_an_output_overrides_the_requests_choice_of_binary() -> None:
    wanted = [{"name": "y", "parameters": {"binary_data": False}}, {"name": "n"}]
    request = decode(body(parameters={"binary_data_output": True}, outputs=wanted))
    assert request.outputs == (v2.WantedOutput("y", False), v2.WantedOutput("n", True))


def test_what_json_cannot_hold_goes_as_binary_data() -> None:
    bad = {**OUTPUTS, "y": np.array([[np.nan, np.inf, 0, 1]], dtype=np.float32)}
    with pytest.raises(UnprocessableError, match="ask for it as binary") as caught:
        v2.encode(decode(body()), bad, MODEL)
    assert caught.value.code == "nonfinite_output"
    answer, header = v2.encode(decode(body(parameters={"binary_data_output": True})), bad, MODEL)
    result = InferenceServerClient.parse_response_body(answer, header_length=header)
    assert np.array_equal(result.as_numpy("y"), bad["y"], equal_nan=True)


DEEP = b'{"inputs":' + b"[" * 100_000
SHARED = {"shared_memory_region": "r", "shared_memory_byte_size": 12}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b'{"inputs": NaN}', "NaN is not a JSON"),
        (b'{"inputs": [-Infinity]}', "-Infinity is not a JSON"),
        (DEEP, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "not JSON"),
        ([], "must be a JSON object, not a list"),
        (body(inputs=None), "inputs must be a list of objects"),
        (body(inputs={}), "inputs must be a list of objects"),
        (body(inputs=[1]), "inputs must be a list of objects"),
        (body(inputs=[]), "the model also takes 'x', 's', 'flag'"),
        (body(id=7), "id must be a string, not 7"),
        (body(parameters=[]), "parameters must be an object"),
        (body(parameters={"sequence_id": 3}), "keeps no state"),
        (body(parameters={"binary_data_output": 1}), "binary_data_output must be true or false"),
        (first(name=None), r"inputs\[0\].name must be a string, not null"),
        (first(name="z"), r"the model has no input 'z'; it takes 'x', 's', 'flag'"),
        (first(name="\ud800" * 1000), r"the model has no input '\\ud800"),
        (first(name="flag", shape=[2], datatype="BOOL", data=[True, True]), "'flag' is given twice"),
        (first(datatype=None), "is FP32, and the request says null, unknown here"),
        (first(datatype="BF16"), "is FP32, and the request says 'BF16', unknown here"),
        (first(datatype="FP64"), "is FP32, and the request says FP64"),
        (first(datatype=["FP32"]), "a list, unknown here"),
        (first(shape=None), r"inputs\[0\].shape must be a list of sizes, not null"),
        (first(shape=[1, -3]), "whole number from 0"),
        (first(shape=[1, 3.0]), "whole number from 0"),
        (first(shape=[2**63, 3]), "whole number from 0"),
        (first(shape=[3]), "rank must be 2"),
        (first(shape=[1, 4]), "axis 1 must be 3"),
        (first(shape=[0, 3], data=[]), "axis 0 is empty"),
        (first(shape=[2, 3]), r"shape \[2, 3\] holds 6 elements, and 3 were sent"),
        (first(data=None), "input 'x' has no data"),
        (first(data=[1, 2, "3"]), "the data holds strings"),
        (first(data=[1, 2, 1e39]), "too large for FP32"),
        (first(data=[[1, 2], [3]]), "nested data does not have the shape"),
        (first(parameters=SHARED, data=None), "no shared memory here"),
        (first(parameters={"binary_data_size": 12}), "exclude each other"),
        (
            first(parameters={"binary_data_size": 12}, data=None),
            "needs the header Inference-Header-Content-Length",
        ),
        (body(outputs={}), "outputs must be a list of objects"),
        (body(outputs=[{}]), r"outputs\[0\].name must be a string"),
        (body(outputs=[{"name": "z"}]), "has no output 'z'; it gives 'y', 't', 'n'"),
        (body(outputs=[{"name": "y"}, {"name": "y"}]), r"outputs\[1\]: output 'y' is asked for twice"),
        (body(outputs=[{"name": "y", "parameters": SHARED}]), "no shared memory here"),
        (
            body(outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]),
            "binary_data must be true or false",
        ),
        (body(outputs=[{"name": "y", "parameters": {"classification": -1}}]), "number of classes, not -1"),
        (
            body(outputs=[{"name": "y", "parameters": {"classification": True}}]),
            "number of classes, not true",
        ),
        (body(outputs=[{"name": "t", "parameters": {"classification": 2}}]), "'t' cannot be classified"),
        (body(outputs=[{"name": "n", "parameters": {"classification": 2}}]), "'n' cannot be classified"),
    ],
)
def test_wrong_requests_are_refused_by_field(document: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        decode(document)


@pytest.mark.parametrize("shape", [[11, 3], [2**62, 2**62], [1] * 9, [2**62] * 4])
def test_shapes_over_a_limit_are_refused_before_their_data_is_looked_at(shape: list[int]) -> None:
    with pytest.raises(TooLargeError, match="'x'"):
        decode(first(shape=shape, data=[1]))


X_RAW, S_RAW, FLAG_RAW = np.arange(3, dtype=np.float32).tobytes(), b"\3\0\0\0hot", b"\1\0"


def binary(
    sizes: tuple[Any, Any, Any] = (12, 7, 2), tail: bytes = X_RAW + S_RAW + FLAG_RAW, **changes: Any
) -> tuple[bytes, int]:
    inputs = [
        {"name": n, "shape": shape, "datatype": d, "parameters": {"binary_data_size": size}}
        for (n, shape, d), size in zip(
            (("x", [1, 3], "FP32"), ("s", [1, 1], "BYTES"), ("flag", [2], "BOOL")), sizes, strict=True
        )
    ]
    header = json.dumps({"inputs": inputs, **changes}).encode()
    return header + tail, len(header)


def test_binary_data_is_read_in_the_order_of_the_inputs() -> None:
    for pad in range(4):  # data may begin anywhere
        inputs = v2.decode(*binary(id="x" * pad), MODEL).inputs
        assert inputs["x"].tolist() == [[0, 1, 2]]
        assert inputs["s"].tolist() == [[b"hot"]]
        assert inputs["flag"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("sizes", "tail", "said"),
    [
        ((16, 7, 2), X_RAW + S_RAW + FLAG_RAW, "takes 12 bytes, and 16 were sent"),
        ((12, 7, 3), X_RAW + S_RAW + FLAG_RAW, "binary_data_size is 3, and 2 bytes of data are left"),
        ((12, 7, 2), X_RAW + S_RAW + FLAG_RAW + b"!", "1 bytes of data belong to no input"),
        ((12, 7, 2), X_RAW, "binary_data_size is 7, and 0 bytes of data are left"),
        ((-1, 7, 2), X_RAW, "binary_data_size is -1"),
        ((True, 7, 2), X_RAW, "binary_data_size is true"),
        ((12.0, 7, 2), X_RAW, "binary_data_size is 12.0"),
        ((2**70, 7, 2), X_RAW, "binary_data_size is a very large number"),
        ((12, 7, 2), X_RAW + b"\4\0\0\0hot" + FLAG_RAW, "points past the end"),
        ((12, 7, 2), X_RAW + b"\2\0\0\0hot" + FLAG_RAW, "1 bytes follow the last string"),
        ((12, 3, 2), X_RAW + b"hot" + FLAG_RAW, "cannot hold 1 strings"),
        ((12, 7, 2), X_RAW + S_RAW + b"\1\2", "a boolean is a byte of 0 or 1"),
    ],
)
def test_binary_sizes_that_lie_are_refused(sizes: tuple[Any, Any, Any], tail: bytes, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        v2.decode(*binary(sizes, tail), MODEL)


@pytest.mark.parametrize("length", [-1, 10**9])
def test_a_header_length_outside_the_body_is_refused(length: int) -> None:
    with pytest.raises(InvalidRequestError, match="the body has"):
        v2.decode(binary()[0], length, MODEL)


def test_metadata() -> None:
    assert v2.metadata(any_manifest(version="sha256:12")) == {
        "name": "m",
        "versions": ["12"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4, -1]},
            {"name": "any", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": []}],
    }
    assert v2.server_metadata()["version"] == __version__
    assert "binary_tensor_data" in v2.server_metadata()["extensions"]


DTYPES = sorted(set(BY_V2) - {"BYTES"})


def arrays(name: str, shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    count = int(np.prod(shape, dtype=int))
    if name == "BYTES":
        items = st.lists(st.binary(max_size=5), min_size=count, max_size=count)
        return items.map(lambda found: np.array([*found, None], dtype=object)[:-1].reshape(shape))
    kind = np.dtype(BY_V2[name].numpy)
    if name == "BOOL":
        return st.lists(st.booleans(), min_size=count, max_size=count).map(
            lambda found: np.array(found, dtype=kind).reshape(shape)
        )
    size = count * kind.itemsize
    return st.binary(min_size=size, max_size=size).map(
        lambda raw: np.frombuffer(raw, dtype=kind).reshape(shape)
    )


TENSORS = st.lists(
    st.tuples(st.sampled_from(sorted(BY_V2)), st.lists(st.integers(1, 3), max_size=3)), min_size=1, max_size=3
).flatmap(
    lambda kinds: st.tuples(*(arrays(name, tuple(shape)) for name, shape in kinds)).map(
        lambda found: {f"t{i}": array for i, array in enumerate(found)}
    )
)


def same(a: dict[str, Array], b: dict[str, Array]) -> bool:
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes()
        if a[n].dtype != object
        else a[n].tolist() == b[n].tolist()
        for n in a
    )


@given(TENSORS)
def test_packed_tensors_come_back_bit_by_bit(tensors: dict[str, Array]) -> None:
    assert same(unpack(pack(tensors)), tensors)


@given(st.binary(max_size=200))
def test_unpacking_garbage_raises_nothing_else(data: bytes) -> None:
    with suppress(RequestError):
        unpack(data)


@given(TENSORS)
def test_binary_requests_and_answers_come_back_bit_by_bit(tensors: dict[str, Array]) -> None:
    """An answer's outputs are a request's inputs: what encode writes, decode reads."""
    specs = tuple(
        TensorSpec(name, "BYTES" if a.dtype == object else _v2_name(a), tuple(a.shape))
        for name, a in tensors.items()
    )
    model = any_manifest(inputs=specs, outputs=specs)
    wanted = v2.InferRequest("i", {}, tuple(v2.WantedOutput(name, True) for name in tensors), {})
    answer, length = v2.encode(wanted, tensors, model)
    assert length is not None
    document = json.loads(answer[:length])
    assert sum(o["parameters"]["binary_data_size"] for o in document["outputs"]) == len(answer) - length
    header = json.dumps({"inputs": document["outputs"]}).encode()
    assert same(v2.decode(header + answer[length:], len(header), model).inputs, tensors)


def _v2_name(array: Array) -> str:
    return next(name for name in DTYPES if np.dtype(BY_V2[name].numpy) == array.dtype)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = JSON | st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "classification", "shared_memory_offset", "x"]),
    JSON | st.integers(-1, 20),
    max_size=2,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "s", "flag", "y", "t", "n"]) | JSON,
        "shape": st.lists(st.integers(0, 4), max_size=3) | JSON,
        "datatype": st.sampled_from(sorted(BY_V2)) | JSON,
        "data": st.lists(st.floats(width=32) | st.booleans(), max_size=6) | JSON,
        "parameters": PARAMETERS,
    },
)
DOCUMENT = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "parameters": PARAMETERS,
        "inputs": st.lists(ENTRY, max_size=4) | JSON,
        "outputs": st.lists(ENTRY, max_size=4) | JSON,
    },
)


def refusal(data: bytes, length: int | None) -> str:
    """What a client is told; nothing where the request is good."""
    try:
        v2.decode(data, length, MODEL)
    except RequestError as error:
        return str(error)
    return ""


@given(DOCUMENT | JSON, st.binary(max_size=30), st.booleans(), st.integers(-3, 3))
def test_no_document_raises_anything_else(document: Any, tail: bytes, binary: bool, off: int) -> None:
    header = json.dumps(document).encode()
    said = refusal(header + tail if binary else header, len(header) + off if binary else None)
    assert said.isprintable()


@given(st.lists(ENTRY, min_size=1, max_size=3))
def test_no_change_to_a_good_request_raises_anything_else(entries: list[dict[str, Any]]) -> None:
    document = body()
    for entry, change in zip(document["inputs"], entries, strict=False):
        entry.update(change)
    assert refusal(json.dumps(document).encode(), None).isprintable()


@given(st.binary(max_size=200), st.none() | st.integers(-5, 300))
def test_no_bytes_raise_anything_else(data: bytes, length: int | None) -> None:
    with pytest.raises(RequestError):
        v2.decode(data, length, MODEL)


def test_changing_one_byte_of_a_binary_request_raises_nothing_else() -> None:
    data, length = binary(outputs=[{"name": "y"}])
    for at in range(len(data)):
        for value in (0, 1, 0x22, 0x5B, 0x7D, 0xFF):
            refusal(data[:at] + bytes([value]) + data[at + 1 :], length)
