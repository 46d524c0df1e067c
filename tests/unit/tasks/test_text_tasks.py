from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from preheat.errors import ArtifactError, EngineError, InvalidRequestError, RequestError, TooLargeError
from preheat.manifest import TensorSpec
from preheat.tasks import built_in
from preheat.tasks.text_classification import TextClassification
from preheat.tasks.text_embedding import TextEmbedding, pool
from preheat.tasks.tokens import CHARACTERS_PER_TOKEN, POOL_FROM, Tokens
from preheat.tensors import Array

from .artifacts import artifact, written

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, "the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"]
PAD, UNK, CLS, SEP = range(4)

IDS = TensorSpec("input_ids", "INT64", ("batch", "sequence"))
MASK = TensorSpec("attention_mask", "INT64", ("batch", "sequence"))
TYPES = TensorSpec("token_type_ids", "INT32", ("batch", "sequence"))
PLACES = TensorSpec("position_ids", "INT64", ("batch", "sequence"))
HIDDEN = TensorSpec("last_hidden_state", "FP32", ("batch", "sequence", 2))


def tokenizer(special: bool = True, **padding: Any) -> Any:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
        )
    if padding:
        made.enable_padding(**padding)
    return made


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    # As sentence-transformers saves it: padded to a fixed length and cut, neither of which may be kept.
    made = tokenizer(length=12, pad_id=PAD, pad_token="[PAD]")
    made.enable_truncation(12)
    made.save(str(path))
    return path


def embedder(saved: Path, *inputs: TensorSpec, **options: Any) -> TextEmbedding:
    return TextEmbedding(
        artifact(list(inputs) or [IDS, MASK], [HIDDEN], options=options, assets={"tokenizer": saved}, batch=4)
    )


def test_texts_become_the_inputs_that_the_model_has(saved: Path) -> None:
    inputs = embedder(saved, IDS, MASK, TYPES, PLACES).prepare({"input": ["The quick fox", "dog cat"]})
    assert {name: array.tolist() for name, array in inputs.items()} == {
        "input_ids": [[CLS, 4, 5, 7, SEP], [CLS, 11, UNK, SEP, PAD]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]],
        "token_type_ids": [[0] * 5, [0] * 5],
        "position_ids": [[0, 1, 2, 3, 4], [0, 1, 2, 3, 3]],
    }
    assert [str(array.dtype) for array in inputs.values()] == ["int64", "int64", "int32", "int64"]
    assert list(embedder(saved, IDS).prepare({"input": "fox"})) == ["input_ids"]


def test_texts_are_cut_and_ids_are_not(saved: Path) -> None:
    task = embedder(saved, max_length=5)
    assert task.prepare({"input": "the quick brown fox jumps"})["input_ids"].tolist() == [[CLS, 4, 5, 6, SEP]]
    assert task.prepare({"input": [CLS, 4, SEP]})["input_ids"].tolist() == [[CLS, 4, SEP]]
    assert task.prepare({"input": [[4], [5, 6]]})["input_ids"].tolist() == [[4, PAD], [5, 6]]
    with pytest.raises(TooLargeError, match=r"input has 6 tokens; the limit is 5"):
        task.prepare({"input": [4] * 6})
    limited = artifact(
        [IDS, MASK], [HIDDEN], options={"max_length": 99}, assets={"tokenizer": saved}, sequence=4
    )
    assert TextEmbedding(limited).prepare({"input": "the " * 50})["input_ids"].shape == (1, 4)


def test_a_model_of_fixed_length_gets_that_length(saved: Path) -> None:
    fixed = (TensorSpec("input_ids", "INT32", (None, 8)), TensorSpec("attention_mask", "FP32", (None, 8)))
    inputs = embedder(saved, *fixed).prepare({"input": "fox"})
    assert inputs["input_ids"].tolist() == [[CLS, 7, SEP, 0, 0, 0, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    assert embedder(saved, *fixed).prepare({"input": "fox " * 50})["input_ids"].shape == (1, 8)


def test_padding_goes_where_the_tokenizer_says(tmp_path: Path) -> None:
    tokenizer(pad_id=UNK, pad_token="[UNK]", direction="left").save(str(tmp_path / "t.json"))
    task = embedder(tmp_path / "t.json", IDS, MASK, PLACES)
    inputs = task.prepare({"input": ["fox", "the fox"]})
    assert inputs["input_ids"].tolist() == [[UNK, CLS, 7, SEP], [CLS, 4, 7, SEP]]
    assert inputs["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert inputs["position_ids"].tolist() == [[0, 0, 1, 2], [0, 1, 2, 3]]


def test_long_texts_are_encoded_as_short_ones_are(saved: Path) -> None:
    """Requests past POOL_FROM characters take the library's pool."""
    task = embedder(saved, max_length=400)
    text = "the quick brown fox jumps over lazy dog " * 9
    many = [text * (1 + POOL_FROM // len(text)), text]
    together = task.prepare({"input": many})
    alone = task.prepare({"input": text})
    assert together["input_ids"][1][: alone["input_ids"].shape[1]].tolist() == alone["input_ids"][0].tolist()
    assert together["input_ids"][0].tolist()[:75] == [*alone["input_ids"][0].tolist()[:-1], 4, 5][:75]


def test_a_text_costs_no_more_than_can_count(saved: Path) -> None:
    task = embedder(saved, max_length=4)
    blanks = " " * (CHARACTERS_PER_TOKEN * 4)
    assert task.prepare({"input": blanks[1:] + "fox"})["input_ids"].tolist() == [
        [CLS, UNK, SEP]
    ]  # "f" was read
    assert task.prepare({"input": blanks + "fox"})["input_ids"].tolist() == [[CLS, SEP]]


def test_short_texts_start_no_threads(saved: Path) -> None:
    """The library's pool does not survive a fork or a snapshot; it must not be there before one."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from tests.unit.tasks.test_text_tasks import embedder\n"
        "task = embedder(Path(sys.argv[1]))\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "task.prepare({'input': 'the quick fox'}); task.prepare({'input': ['fox'] * 4})\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(saved)], capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr


def test_several_threads_share_a_task(saved: Path) -> None:
    task = embedder(saved)
    texts = [" ".join(WORDS[4 : 5 + n % 8]) for n in range(400)]
    alone = [task.prepare({"input": text})["input_ids"].tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool_:
        together = list(pool_.map(lambda text: task.prepare({"input": text})["input_ids"].tolist(), texts))
    assert together == alone


ARRAY = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
HOLES = np.array([[True, True, False], [False, True, True]])


@pytest.mark.parametrize(
    ("pooling", "want"),
    [
        ("mean", [[1, 2], [9, 10]]),
        ("cls", [[0, 1], [8, 9]]),
        ("last", [[2, 3], [10, 11]]),
        ("max", [[2, 3], [10, 11]]),
    ],
)
def test_pooling_leaves_padding_out(pooling: str, want: list[list[float]]) -> None:
    assert pool(ARRAY, HOLES, pooling).tolist() == want
    negative = pool(-1 - ARRAY, HOLES, pooling)
    assert (negative < 0).all()
    assert pool(ARRAY, np.zeros((2, 3), dtype=bool), pooling).tolist() == [[0, 0], [0, 0]]


def test_vectors_are_pooled_scaled_and_counted(saved: Path) -> None:
    task = embedder(saved, normalize=True)
    inputs = task.prepare({"input": ["the fox", "dog"]})
    hidden = np.zeros((2, 4, 2), dtype=np.float32)
    hidden[:, :3] = [3, 4]
    hidden[0, 3], hidden[1, 3] = [3, 4], [99, 99]
    vectors = task.vectors({"last_hidden_state": hidden}, inputs)
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(np.array([[0.6, 0.8], [0.6, 0.8]]))
    assert task.token_counts(inputs) == [4, 3]
    assert task.dimension == 2
    assert task.finish({"last_hidden_state": hidden}, inputs) == {"embeddings": vectors.tolist()}
    unseen = embedder(saved, IDS)  # no mask among the model's inputs
    assert unseen.token_counts(unseen.prepare({"input": ["the fox", "dog"]})) == [4, 3]


@pytest.mark.parametrize(
    ("outputs", "taken"),
    [
        ([HIDDEN, TensorSpec("pooler_output", "FP32", ("b", 2))], "last_hidden_state"),
        ([HIDDEN, TensorSpec("sentence_embedding", "FP32", ("b", 2))], "sentence_embedding"),
        ([TensorSpec("other", "INT64", ("b",)), TensorSpec("vector", "FP16", ("b", 2))], "vector"),
        ([TensorSpec("free", "FP32", None)], "free"),
    ],
)
def test_the_output_that_is_a_vector_is_found(saved: Path, outputs: list[TensorSpec], taken: str) -> None:
    task = TextEmbedding(artifact([IDS, MASK], outputs, assets={"tokenizer": saved}))
    assert task.output == taken
    inputs = task.prepare({"input": "fox"})
    vectors = task.vectors({taken: np.ones((1, 2), dtype=np.float16)}, inputs)
    assert vectors.tolist() == [[1, 1]]
    assert vectors.dtype == np.float32


WRONG = [
    (None, InvalidRequestError, "object with the field 'input'"),
    ("text", InvalidRequestError, "object with the field 'input', not 'text'"),
    ({"inputs": "x"}, InvalidRequestError, "no field 'input'"),
    ({"input": None}, InvalidRequestError, "input must be a text, not null"),
    ({"input": 3}, InvalidRequestError, "input must be a text, not 3"),
    ({"input": {}}, InvalidRequestError, "input must be a text, not an object"),
    ({"input": []}, InvalidRequestError, "input is an empty list"),
    ({"input": ["a", 3]}, InvalidRequestError, r"input\[1\] must be a text, not 3"),
    ({"input": ["a"] * 5}, TooLargeError, "input has 5 items; the limit is 4"),
    ({"input": [[4]] * 5}, TooLargeError, "input has 5 items; the limit is 4"),
    ({"input": "\ud800"}, InvalidRequestError, "input has half of a surrogate pair"),
    ({"input": [4, "a"]}, InvalidRequestError, "input must be a list of one or more token ids"),
    ({"input": [4, True]}, InvalidRequestError, "input must be a list of one or more token ids"),
    ({"input": [[]]}, InvalidRequestError, r"input\[0\] must be a list of one or more token ids"),
    ({"input": [[4], "a"]}, InvalidRequestError, r"input\[1\] must be a list of one or more token ids"),
    ({"input": [4, 12]}, InvalidRequestError, "token ids go from 0 to 11; it has 4 to 12"),
    ({"input": [-1]}, InvalidRequestError, "it has -1 to -1"),
    ({"input": [10**5000]}, InvalidRequestError, "a very large number"),
]


@pytest.mark.parametrize(("request_", "error", "said"), WRONG)
def test_wrong_requests_are_refused_by_field(saved: Path, request_: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        embedder(saved).prepare(request_)


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer(special=False).save(str(tmp_path / "t.json"))
    task = embedder(tmp_path / "t.json")
    assert task.prepare({"input": "fox"})["input_ids"].tolist() == [[7]]
    with pytest.raises(InvalidRequestError, match=r"input\[1\] is an empty text"):
        task.prepare({"input": ["fox", " "]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(0, 12) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries({"input": JSON}))
def test_no_request_raises_anything_else(saved: Path, request_: Any) -> None:
    task = embedder(saved)
    try:
        inputs = task.prepare(request_)
    except RequestError as error:
        printable = str(error).isprintable()
        assert printable
        return
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "said"),
    [
        ([MASK], [HIDDEN], {}, "no input 'input_ids'"),
        ([IDS, TensorSpec("past", "FP32", None)], [HIDDEN], {}, "the model takes 'past'; text tasks fill"),
        ([IDS], [HIDDEN], {"pooling": "median"}, "pooling must be one of mean, cls, max, last"),
        ([IDS], [HIDDEN], {"normalize": 1}, "normalize must be true or false"),
        ([IDS], [HIDDEN], {"max_length": "9"}, "max_length must be a whole number"),
        ([IDS], [HIDDEN], {"max_length": -1}, "max_length must be a whole number"),
        ([IDS], [HIDDEN], {"max_length": 2}, "max_length is 2, and 2 special tokens"),
        ([IDS], [TensorSpec("y", "INT64", (1, 2))], {}, "no output that is a vector"),
    ],
)
def test_an_artifact_that_does_not_fit_is_refused(
    saved: Path, inputs: list[TensorSpec], outputs: list[TensorSpec], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        TextEmbedding(artifact(inputs, outputs, options=options, assets={"tokenizer": saved}))


def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="need the asset 'tokenizer'"):
        Tokens(artifact([IDS], [HIDDEN]))
    for content in ("", "{}", '{"model": 1}', "[1]"):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(ArtifactError, match="is not a tokenizer"):
            Tokens(artifact([IDS], [HIDDEN], assets={"tokenizer": tmp_path / "t.json"}))


# Classification

LOGITS = TensorSpec("logits", "FP32", ("batch", 3))
LABELS = ["bad", "fine", "good"]


def classifier(saved: Path, outputs: list[TensorSpec] | None = None, **options: Any) -> TextClassification:
    options = {"labels": LABELS, **options}
    return TextClassification(
        artifact([IDS, MASK], outputs or [LOGITS], options=options, assets={"tokenizer": saved}, batch=4)
    )


def finished(task: TextClassification, logits: Array) -> Any:
    inputs = task.prepare({"input": ["fox"] * len(logits)})
    answer = task.finish({task.classes.output: logits}, inputs)
    return json.loads(json.dumps(answer, allow_nan=False))["predictions"]


@pytest.mark.parametrize(
    ("activation", "want"),
    [
        ("softmax", np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum()),
        ("sigmoid", 1 / (1 + np.exp([-1.0, -3, -2]))),
        ("none", [1, 3, 2]),
    ],
)
def test_scores_by_label_best_first(saved: Path, activation: str, want: Any) -> None:
    task = classifier(saved, activation=activation)
    first, second = finished(task, np.array([[1, 3, 2], [9, 0, 0]], dtype=np.float32))
    assert list(first["scores"]) == ["fine", "good", "bad"]
    assert [first["scores"][label] for label in LABELS] == pytest.approx(list(want), abs=1e-6)
    assert first["label"] == "fine"
    assert first["score"] == first["scores"]["fine"]
    assert list(second["scores"]) == ["bad", "fine", "good"]  # equals keep the model's order


def test_large_logits_do_not_overflow(saved: Path) -> None:
    logits = np.array([[1e30, -1e30, 0]], dtype=np.float32)
    for activation in ("softmax", "sigmoid"):
        (row,) = finished(classifier(saved, activation=activation), logits)
        assert row["scores"]["bad"] == 1.0
        assert row["scores"]["fine"] == 0.0


def test_labels_come_from_the_asset_too(saved: Path, tmp_path: Path) -> None:
    for document in (LABELS, {"2": "good", "0": "bad", "1": "fine"}):
        labels = written(tmp_path / "labels.json", document)
        made = artifact([IDS], [LOGITS], assets={"tokenizer": saved, "labels": labels})
        assert TextClassification(made).classes.labels == LABELS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": None}, "asset 'labels' or the option 'labels'"),
        ({"labels": []}, "must be a list of texts"),
        ({"labels": ["a", 1, "b"]}, "must be a list of texts"),
        ({"labels": {"1": "a", "2": "b", "3": "c"}}, "from 0 on"),
        ({"labels": ["a", "b"]}, "3 scores, and there are 2 labels"),
        ({"labels": ["a", "b", "a"]}, "two labels are the same"),
        ({"activation": "relu"}, "activation must be one of softmax"),
    ],
)
def test_labels_that_do_not_fit_are_refused(saved: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        classifier(saved, **options)


def test_outputs_that_are_no_scores_are_refused(saved: Path) -> None:
    with pytest.raises(ArtifactError, match="no output of scores"):
        classifier(saved, [HIDDEN])
    free = classifier(saved, [TensorSpec("any", "FP32", None)])
    with pytest.raises(EngineError, match="for 3 labels"):
        finished(free, np.zeros((1, 4), dtype=np.float32))


@pytest.mark.parametrize(("request_", "error", "said"), WRONG)
def test_wrong_requests_to_a_classifier(saved: Path, request_: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        classifier(saved).prepare(request_)


def test_the_tasks_are_built_in() -> None:
    assert built_in("text_embedding") is TextEmbedding
    assert built_in("text_classification") is TextClassification
