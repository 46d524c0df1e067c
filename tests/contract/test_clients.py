"""The clients that users already have, unchanged: tritonclient and openai, over two servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from preheat import Function
from preheat.manifest import load
from preheat.tensors import unpack

from ..conftest import Server
from .conftest import Uvicorn


@pytest.fixture(scope="module", params=["server", "uvicorn", "fastapi"])
def filetype(
    request: pytest.FixtureRequest,
    filetype_server: Server,
    filetype_artifact: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """host:port of the filetype function."""
    if request.param == "server":
        yield f"127.0.0.1:{filetype_server.port}"
        return
    cache = str(tmp_path_factory.mktemp("cache"))
    function = Function(environ={"PREHEAT_ARTIFACT": str(filetype_artifact), "PREHEAT_CACHE": cache})
    running = Uvicorn(function.api if request.param == "fastapi" else function.app)
    yield f"127.0.0.1:{running.socket.getsockname()[1]}"
    running.stop()


@pytest.fixture
def client(filetype: str) -> Iterator[Any]:
    client = triton.InferenceServerClient(filetype)
    yield client
    client.close()


@pytest.fixture(scope="module")
def golden(filetype_artifact: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    manifest = load((filetype_artifact / "manifest.json").read_bytes())
    inputs, outputs = ((filetype_artifact / path).read_bytes() for path in manifest.golden[0])
    return unpack(inputs), unpack(outputs)


def test_triton_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("filetype")
    assert client.get_server_metadata()["extensions"] == [
        *("binary_tensor_data", "classification", "model_repository")
    ]
    metadata = client.get_model_metadata("filetype")
    assert [i["name"] for i in metadata["inputs"]] == ["bytes"]
    assert client.is_model_ready("filetype", metadata["versions"][0])


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_infer(
    client: Any,
    golden: tuple[dict[str, Any], dict[str, Any]],
    binary_in: bool,
    binary_out: bool,
    compression: str | None,
) -> None:
    inputs, outputs = golden
    array = np.repeat(inputs["bytes"], 3, axis=0)
    sent = triton.InferInput("bytes", list(array.shape), "INT32")
    sent.set_data_from_numpy(array, binary_data=binary_in)
    asked = triton.InferRequestedOutput("target_label", binary_data=binary_out)
    result = client.infer(
        "filetype", [sent], outputs=[asked], request_id="7", request_compression_algorithm=compression
    )
    want = np.repeat(outputs["target_label"], 3, axis=0)
    assert np.allclose(result.as_numpy("target_label"), want, atol=1e-4)
    assert result.get_response()["id"] == "7"


def test_triton_classification(client: Any, golden: tuple[dict[str, Any], dict[str, Any]]) -> None:
    array = golden[0]["bytes"]
    sent = triton.InferInput("bytes", list(array.shape), "INT32")
    sent.set_data_from_numpy(array)
    asked = triton.InferRequestedOutput("target_label", class_count=2)
    classes = client.infer("filetype", [sent], outputs=[asked]).as_numpy("target_label")
    assert classes.shape == (1, 2)
    assert int(classes[0, 0].split(b":")[1]) == int(golden[1]["target_label"].argmax())


def test_triton_is_told_what_is_wrong(client: Any) -> None:
    sent = triton.InferInput("bytes", [1, 7], "INT32")
    sent.set_data_from_numpy(np.zeros((1, 7), dtype=np.int32))
    with pytest.raises(InferenceServerException, match="axis 1 must be 2048"):
        client.infer("filetype", [sent])
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        client.get_model_metadata("other")


def test_openai_embeddings(embed_server: Server) -> None:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{embed_server.port}/v1", api_key="none", max_retries=0
    ) as client:
        # The client asks for base64 by itself and decodes it.
        answer = client.embeddings.create(model="embed", input=["a cat", "a small cat", "tax law"])
        cat, small_cat, law = (np.array(row.embedding) for row in answer.data)
        assert cat @ small_cat > cat @ law + 0.3
        assert answer.usage.total_tokens > 6
        plain = client.embeddings.create(model="embed", input="a cat", encoding_format="float")
        assert np.allclose(plain.data[0].embedding, cat, atol=1e-4)
        with pytest.raises(openai.NotFoundError) as missing:
            client.embeddings.create(model="other", input="a")
        assert "there is no model 'other'" in missing.value.response.json()["error"]
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model="embed", input="a", dimensions=7)
        assert "dimensions" in refused.value.response.json()["error"]
