"""Outcomes as bytes that outlive the process."""

import pytest

from preheat.answer import Answer, pack, unpack
from preheat.errors import CancelledError, InvalidRequestError, UnprocessableError


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"{}"),
        Answer(b""),
        Answer(b"\n\x00\n\xff", "application/octet-stream", (("inference-header-content-length", "3"),)),
    ],
)
def test_an_answer_comes_back_byte_for_byte(answer: Answer) -> None:
    assert unpack(pack(answer)) == answer


@pytest.mark.parametrize("error", [UnprocessableError("é\nno", code="odd"), CancelledError("called off")])
def test_an_error_that_is_an_outcome_comes_back_as_itself(error: UnprocessableError) -> None:
    back = unpack(pack(error))
    assert (type(back), str(back), back.code) == (type(error), str(error), error.code)  # type: ignore[union-attr]


def test_what_says_nothing_of_the_next_try_is_not_kept() -> None:
    with pytest.raises(StopIteration):
        pack(InvalidRequestError("no"))
