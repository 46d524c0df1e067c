"""JSON in pieces: what comes of it is what the standard library makes of the whole."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat import pauses
from preheat.errors import InvalidRequestError
from preheat.pauses import COPY
from preheat.protocol import large_json, strict_json
from preheat.protocol.strict_json import dumps, loads

TEXT = st.text(max_size=8) | st.sampled_from(["],", "},", '",', '"', "\\", "[{", "😀\\\n", "é\u1234" * 9])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=40,
)
PIECES = st.sampled_from([2, 3, 5, 8, 13, 40, 200])
ENCODERS = st.sampled_from(
    [
        json.JSONEncoder(),
        json.JSONEncoder(separators=(",", ":"), allow_nan=False),
        json.JSONEncoder(sort_keys=True),
    ]
)


class Constant(Exception):
    pass


def refuse(word: str) -> None:
    raise Constant(word)


def came(load: Any, text: str) -> object:
    try:
        return repr(load(text))
    except (ValueError, Constant) as error:
        return type(error) if isinstance(error, Constant) else ValueError


def in_pieces(text: str, size: int) -> object:
    before, large_json.PIECE = large_json.PIECE, size
    try:
        return came(lambda text: large_json.loads(text, refuse), text)
    finally:
        large_json.PIECE = before


def whole(text: str) -> object:
    return came(lambda text: json.loads(text, parse_constant=refuse), text)


@given(
    VALUES,
    PIECES,
    st.sampled_from([None, 1]),
    st.sampled_from([None, (",", ":"), (" , ", " :\t")]),
    st.booleans(),
)
def test_it_is_decoded_as_the_whole_is(
    value: Any, size: int, indent: Any, separators: Any, ascii: bool
) -> None:
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii)
    assert in_pieces(text, size) == whole(text)


@given(VALUES, PIECES, st.data())
def test_what_is_wrong_is_refused_as_it_is_in_the_whole(value: Any, size: int, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        if data.draw(st.booleans()):
            text = text[:at] + text[at + 1 :]
        else:
            text = (
                text[:at]
                + data.draw(st.sampled_from([*'[]{},:"0-e.\\ ntN', "NaN", "\ud800", "\n"]))
                + text[at:]
            )
    assert in_pieces(text, size) == whole(text)


@given(VALUES, ENCODERS, st.sampled_from([1, 2, 3, 7]))
def test_it_is_encoded_as_the_whole_is(value: Any, encoder: json.JSONEncoder, items: int) -> None:
    before, strict_json.ITEMS = strict_json.ITEMS, items
    try:
        assert dumps(value, encoder) == encoder.encode(value)
    finally:
        strict_json.ITEMS = before


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {True: 2}}, [(1, 2)], {}, [], [[]], "a", 1e999])
def test_what_clients_cannot_send_is_encoded_as_the_whole_is(value: Any) -> None:
    encoder = json.JSONEncoder()
    assert dumps(value, encoder) == encoder.encode(value)


def test_numbers_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dumps({"a": [[1.0], [float("nan")]]}, json.JSONEncoder(allow_nan=False))


@pytest.mark.parametrize(
    ("large", "said"),
    [
        ('{"a": [%s1, NaN]}', "NaN is not a JSON number"),
        ('{"a": [%s1, -Infinity]}', "-Infinity is not a JSON number"),
        ('{"a": [%s1, ]}', "the body is not JSON: Expecting value: line 1 column"),
        ('{"a": [%s1 2]}', "the body is not JSON: Expecting ',' delimiter"),
        ('{"a": [%s1], b: 1}', "the body is not JSON: Expecting property name enclosed in double quotes"),
        ('{"a": [%s1]} 1', "the body is not JSON: Extra data"),
        ('{"a": [%s"b', "the body is not JSON: Unterminated string"),
        ("[" * 100_000 + "%s", "nested too deeply"),
        ('{"a": [%s' + "9" * 5000 + "]}", "the body is not JSON: Exceeds the limit"),
    ],
)
def test_the_reason_is_told_of_large_ones_too(large: str, said: str) -> None:
    text = large % ("1," * strict_json.LARGE)
    with pytest.raises(InvalidRequestError) as told:
        loads(text.encode())
    assert str(told.value).startswith(said) or said in str(told.value)
    assert len(str(told.value)) < 200


def test_large_ones_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="not UTF-8"):
        loads(b'"' + b"a" * strict_json.LARGE + b'\xff"')


class Watched:
    """What the standard decoder is given: characters, a call each."""

    def __init__(self) -> None:
        self.decoded: list[int] = []
        self.vain: list[int] = []


def watch(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched()

    class Decoder(json.JSONDecoder):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            scan = cast(Any, self).scan_once

            def scanned(text: str, at: int) -> tuple[Any, int]:
                try:
                    value, end = scan(text, at)
                except (StopIteration, ValueError):
                    watched.vain.append(len(text) - at)
                    raise
                watched.decoded.append(end - at)
                return value, end

            self.scan_once = scanned

    monkeypatch.setattr(large_json, "JSONDecoder", Decoder)
    return watched


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"data": [[0.25] * 1000] * 1000}),
        json.dumps({"data": ["warm " * 500] * 2000}),
        json.dumps("ab\n" * 2_000_000),
        json.dumps("warm " * 400_000 + "\n" + "warm " * 400_000),
        "[" + "[]," * 500_000 + "[]]",
        json.dumps("é\u1234\U0001f600" * 100_000),
        '{"a":' * 100 + "[" + "1,2,[3]," * 200_000 + "1]" + "}" * 100,
    ],
)
def test_no_more_than_a_piece_is_decoded_at_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, paused = watch(monkeypatch), [0]
    monkeypatch.setattr(large_json, "pause", lambda: paused.__setitem__(0, paused[0] + 1))
    assert len(text) > strict_json.LARGE
    assert loads(text.encode()) == json.loads(text)
    assert 0 < max(watched.decoded) <= large_json.PIECE + 2
    assert paused[0] >= len(text) / large_json.PIECE - 1


@pytest.mark.parametrize(("character", "width"), [("a", 1), ("é", 1), ("\u1234", 2), ("\U0001f600", 4)])
@pytest.mark.parametrize("beside", ["", "\U0001f600"])
@pytest.mark.parametrize("escapes", ["", "\n"])
def test_memory_for_a_large_text_is_found_before_it_is_copied(
    character: str, width: int, beside: str, escapes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    for module in (pauses, strict_json, large_json):
        monkeypatch.setattr(module, "room", found.append)
    text = json.dumps([beside, escapes + character * COPY], ensure_ascii=False)
    assert loads(text.encode()) == json.loads(text)
    before, after = found
    assert before == len(text) * (4 if beside else width)
    assert after == (len(escapes) + COPY) * width


def test_large_texts_that_are_cut_within_a_character_are_decoded() -> None:
    text = json.dumps("a" + "\U0001f600" * strict_json.LARGE, ensure_ascii=False)
    assert loads(text.encode()) == loads(memoryview(text.encode())) == json.loads(text)
    with pytest.raises(InvalidRequestError, match="not UTF-8"):
        loads(text.encode()[:-2])


@pytest.mark.parametrize(
    "text",
    [
        "[" + '"],",' * 400_000 + '"a"]',
        "[" + '"" ,' * 400_000 + '"a"]',
        "[" + "[] ,[1] ,{} ," * 100_000 + "[]]",
        "[" + ",".join(["[" * 400 + "1," * 9000 + "1" + "]" * 400] * 40) + "]",
        "[" + ",".join(["[" + "1," * 9000 + "1]"] * 60) + "]",
        "[" * 800 + "1," * 200_000 + "1" + "]" * 800,
    ],
)
def test_what_does_not_come_apart_well_takes_little_longer(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In characters that are looked at, which does not depend on the machine."""
    watched = watch(monkeypatch)
    assert len(text) > strict_json.LARGE
    assert repr(loads(text.encode())) == repr(json.loads(text))
    assert sum(watched.decoded) + sum(watched.vain) <= (large_json.TRIES + 2) * len(text)
    assert len(watched.decoded) + len(watched.vain) <= large_json.TRIES * len(text) / large_json.MEMBER * 3
