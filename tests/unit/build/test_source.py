"""External data is found wherever a tensor can hang, and held against the model's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preheat.build import source
from preheat.errors import SourceError

from ...functional.build import models
from ...functional.build.models import helper, onnx

OUTSIDE = "../outside.bin"


def _float(name: str = "t") -> Any:
    return onnx.TensorProto(name=name, data_type=models.F, dims=[4])


def _constant(tensor: Any) -> Any:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def _identity_graph(node: Any, output: str = "c") -> Any:
    return helper.make_graph([node], "inner", [], [models.tensor(output, models.F, [4])])


def _in_an_initializer(built: Any, tensor: Any) -> None:
    built.graph.initializer.append(tensor)


def _in_sparse_values(built: Any, tensor: Any) -> None:
    indices = models.numpy_helper.from_array(models.np.arange(4), "i")
    built.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [8]))


def _in_sparse_indices(built: Any, tensor: Any) -> None:
    values = models.numpy_helper.from_array(models.np.ones(4, dtype=models.np.float32), "v")
    tensor.data_type = models.I64
    built.graph.sparse_initializer.append(helper.make_sparse_tensor(values, tensor, [8]))


def _in_an_attribute(built: Any, tensor: Any) -> None:
    built.graph.node.append(_constant(tensor))


def _in_a_list_of_tensors(built: Any, tensor: Any) -> None:
    node = helper.make_node("Custom", [], ["c"], domain="d")
    node.attribute.append(helper.make_attribute("many", [_float("other"), tensor]))
    built.graph.node.append(node)


def _in_a_sparse_attribute(built: Any, tensor: Any) -> None:
    indices = models.numpy_helper.from_array(models.np.arange(4), "i")
    node = helper.make_node("Constant", [], ["c"])
    sparse = helper.make_sparse_tensor(tensor, indices, [8])
    node.attribute.append(helper.make_attribute("sparse_value", sparse))
    built.graph.node.append(node)


def _in_a_subgraph(built: Any, tensor: Any) -> None:
    graph = _identity_graph(helper.make_node("Identity", ["t"], ["c"]))
    graph.initializer.append(tensor)
    built.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=graph, else_branch=graph))


def _two_subgraphs_down(built: Any, tensor: Any) -> None:
    inner = helper.make_node("If", ["x"], ["c"], then_branch=_identity_graph(_constant(tensor)))
    built.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=_identity_graph(inner)))


def _in_a_function(built: Any, tensor: Any) -> None:
    opset = [helper.make_opsetid("", 17)]
    built.functions.append(helper.make_function("d", "F", [], ["c"], [_constant(tensor)], opset))


def _in_a_default_attribute_of_a_function(built: Any, tensor: Any) -> None:
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("d", "F", [], ["c"], [], opset)
    function.attribute_proto.append(helper.make_attribute("value", tensor))
    built.functions.append(function)


def _in_training_information(built: Any, tensor: Any) -> None:
    built.training_info.add().initialization.CopyFrom(_identity_graph(_constant(tensor)))


PLACES = [
    _in_an_initializer,
    _in_sparse_values,
    _in_sparse_indices,
    _in_an_attribute,
    _in_a_list_of_tensors,
    _in_a_sparse_attribute,
    _in_a_subgraph,
    _two_subgraphs_down,
    _in_a_function,
    _in_a_default_attribute_of_a_function,
    _in_training_information,
]


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_it_hangs(place: Callable[[Any, Any], None], tmp_path: Path) -> None:
    def saved(location: str) -> str:
        built = models.any_rank()
        place(built, models.external(_float(), location, offset=0, length=16))
        return str(models.save(built, tmp_path / "model" / "m.onnx"))

    (tmp_path / "outside.bin").write_bytes(bytes(16))
    with pytest.raises(SourceError, match="outside the model's folder"):
        source.check(saved(OUTSIDE))
    with pytest.raises(SourceError, match="missing"):
        source.check(saved("inside.bin"))
    (tmp_path / "model" / "inside.bin").write_bytes(bytes(16))
    assert source.check(saved("inside.bin")).data == ("inside.bin",)


@given(st.text(max_size=40))
@example("/etc/passwd")
@example("C:\\weights")
@example("c:/weights")
@example("a/../../b")
@example("a\\..\\b")
@example("a\0b")
@example("./")
@example("")
def test_no_location_leaves_the_folder(location: str) -> None:
    built = models.any_rank()
    try:
        built.graph.initializer.append(models.external(_float(), location))
    except (ValueError, UnicodeError):  # not a text that protobuf holds
        return
    try:
        (found,) = source._external_sizes(built, "m.onnx")
    except SourceError:
        return
    assert not found.startswith("/")
    assert ".." not in found.split("/")
    assert found.isprintable()


@pytest.mark.parametrize("location", ["./w.bin", "deep//w.bin", "deep/./w.bin"])
def test_a_location_is_made_plain(location: str, tmp_path: Path) -> None:
    built = models.any_rank()
    built.graph.initializer.append(models.external(_float(), location, length=16))
    path = models.save(built, tmp_path / "m.onnx")
    (tmp_path / "deep").mkdir()
    for target in (tmp_path / "w.bin", tmp_path / "deep" / "w.bin"):
        target.write_bytes(bytes(16))

    checked = source.check(str(path))
    name = source.copy(checked, str(tmp_path / "copy"))

    assert checked.data == ("deep/w.bin" if "deep" in location else "w.bin",)
    assert (tmp_path / "copy" / name).read_bytes() == path.read_bytes()
    assert (tmp_path / "copy" / checked.data[0]).read_bytes() == bytes(16)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("offset", "-1", "must be a whole number"),
        ("offset", "1e3", "must be a whole number"),
        ("offset", "²", "must be a whole number"),
        ("length", "9" * 30, "must be a whole number"),
        ("location", "second.bin", "twice"),
        ("length", "17", "truncated: it has 16 bytes, and the model's tensors need 17"),
        ("offset", "1", "truncated: it has 16 bytes, and the model's tensors need 17"),
    ],
)
def test_external_data_that_does_not_fit_its_file(key: str, value: str, said: str, tmp_path: Path) -> None:
    built = models.any_rank()
    tensor = models.external(_float(), "w.bin")
    entry = tensor.external_data.add()
    entry.key, entry.value = key, value
    built.graph.initializer.append(tensor)
    (tmp_path / "w.bin").write_bytes(bytes(16))

    with pytest.raises(SourceError, match=said):
        source.check(str(models.save(built, tmp_path / "m.onnx")))


@pytest.mark.parametrize(
    ("kind", "dims", "size"),
    [("FLOAT", [3, 5], 60), ("INT64", [], 8), ("BOOL", [7], 7), ("BFLOAT16", [3], 6), ("INT4", [5], 3)],
)
def test_the_size_of_a_tensor_without_a_length(kind: str, dims: list[int], size: int) -> None:
    tensor = onnx.TensorProto(data_type=getattr(onnx.TensorProto, kind), dims=dims)
    assert source._bytes_of(tensor) == size


def test_what_a_model_says_of_itself(tmp_path: Path) -> None:
    built = models.any_rank()
    built.producer_version = "1.2"
    built.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    checked = source.check(str(models.save(built, tmp_path / "m.onnx")))

    assert checked.opset == {"ai.onnx": 17, "com.microsoft": 1}
    assert checked.ir_version == 9
    assert checked.producer == "tests 1.2"
    assert checked.unranked == ("x", "y")


@pytest.mark.parametrize("lacks", ["graph", "opset_import", "ir_version"])
def test_a_message_that_lacks_a_part_is_no_model(lacks: str, tmp_path: Path) -> None:
    built = models.any_rank()
    built.ClearField(lacks)
    (tmp_path / "m.onnx").write_bytes(built.SerializeToString())
    with pytest.raises(SourceError, match="not an ONNX model"):
        source.check(str(tmp_path / "m.onnx"))


def test_a_graph_without_outputs_cannot_be_run(tmp_path: Path) -> None:
    built = models.any_rank()
    del built.graph.output[:]
    (tmp_path / "m.onnx").write_bytes(built.SerializeToString())
    with pytest.raises(SourceError, match="no output"):
        source.check(str(tmp_path / "m.onnx"))


def test_a_file_in_ort_format_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "m.ort").write_bytes(b"\x14\0\0\0ORTM" + bytes(64))
    with pytest.raises(SourceError, match="ORT format already"):
        source.check(str(tmp_path / "m.ort"))
