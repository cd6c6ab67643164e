# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The reader of JSON streams. Texts and positions of faults are those of QEMU 11.1."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from vmwire.monitor import json_lexer, json_parser
from vmwire.monitor.json_parser import MOST_DEPTH, JsonFault, JsonParser


def read(*pieces: bytes) -> list[Any]:
    """What a parser gives: values, and faults as their texts in a tuple."""
    parser = JsonParser()
    return [
        (str(value),) if isinstance(value, JsonFault) else value
        for piece in pieces
        for value in parser.feed(piece)
    ]


def fault(place: str, words: str) -> tuple[str]:
    return (f"{place}: JSON parse error, {words}",)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [1, -2, {}, [], null, true, false]}', None),
        (b'"x\\u00e9\\ud83d\\ude00\\n\\/\\\\"', None),
        (b"[1.50, 1e3, -0, 18446744073709551615]", None),
        (b"['single', 'it\\'s', '\"']", ["single", "it's", '"']),
        (b'"\xc0\x80\\u0000"', "\0\0"),
        (b"[99999999999999999999, -9223372036854775809]", [1e20, -9223372036854775809.0]),
        (b'"%d"', None),
    ],
)
def test_value_is_read_however_it_is_cut(text: bytes, value: Any) -> None:
    expected = [json.loads(text) if value is None else value]
    assert read(text, b" ") == expected
    assert read(*(text[i : i + 1] for i in range(len(text))), b" ") == expected


def test_values_follow_each_other_with_nothing_between() -> None:
    assert read(b'{"a":1}{"b":2}[3]"x"') == [{"a": 1}, {"b": 2}, [3], "x"]


def test_number_and_word_wait_for_what_ends_them() -> None:
    assert read(b"5") == []
    assert read(b"5", b"6", b"\n", b"tru", b"e ") == [56, True]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (b"not ", [fault("1:1", "invalid keyword 'not'")]),
        (b"}", [fault("1:1", "expecting value")]),
        (b'{"a":1,}', [fault("1:8", "expecting key")]),
        (b'{"a" "b"}', [fault("1:6", "expecting ':'")]),
        (b'{"a":}', [fault("1:6", "expecting value")]),
        (b'{"a":"b" "c"}', [fault("1:10", "expected ',' or '}'")]),
        (b'{"a":[1 2]}', [fault("1:9", "expected ',' or ']'")]),
        (b'{"a":[1}}', [fault("1:9", "expected ',' or ']'")]),
        (b'{"a":{]}', [fault("1:7", "expecting key"), fault("1:8", "expecting value")]),
        (b'{"a":1,"a":"b"}', [fault("1:12", "duplicate key")]),
        (b"{1:2}", [fault("1:2", "expecting key")]),
        (b'{"a":01}', [fault("1:6", "stray '01'"), fault("1:9", "expecting value")]),
        (b'{"a":1.}\n', [fault("1:6", "stray '1.}'")]),
        (b'{"a":%d}', [fault("1:6", "stray '%'"), fault("1:9", "expecting value")]),
        (b'{"a":NaN}', [fault("1:6", "stray 'N'"), fault("1:10", "expecting value")]),
        (b"\xff\xfe", [fault("1:1", "stray '\ufffd'"), fault("1:3", "stray '\ufffd'")]),
        (b'"a\nb"}', [fault("1:1", "stray '\"a\n'"), fault("2:4", "expecting value")]),
        (b'"\\ud83dx"', [fault("1:1", "\\ud83d is not a valid Unicode character")]),
        (b'"\\u12"', [fault("1:1", '\\u12" is not a valid Unicode character')]),
        (b'"\\uffff"', [fault("1:1", "\\uffff is not a valid Unicode character")]),
        (b'"\\x"', [fault("1:1", "invalid escape sequence in string")]),
        (b'"\xc3("', [fault("1:1", "invalid UTF-8 sequence in string")]),
        (b'"\xed\xa0\x80"', [fault("1:1", "invalid UTF-8 sequence in string")]),
        (b"-\n1x\n", [fault("1:1", "stray '-\n'")]),
        (b"[1e999]", [fault("1:2", "number out of range")]),
    ],
)
def test_fault_is_told_where_it_is_and_the_stream_goes_on(
    text: bytes, faults: list[tuple[str]]
) -> None:
    assert read(text, b'\n{"b":2}') == [*faults, {"b": 2}]
    pieces = (text[i : i + 1] for i in range(len(text)))
    assert read(*pieces, b'\n{"b":2}') == [*faults, {"b": 2}]


def test_rest_of_a_wrong_object_is_passed_over() -> None:
    assert read(b'{"a" [1, {"b": 2}]} {"c": 3}') == [fault("1:6", "expecting ':'"), {"c": 3}]


def test_byte_that_begins_nothing_brings_the_parser_back_to_the_start() -> None:
    assert read(b'{"a": [{"b"', b"\xff", b"{}") == [fault("1:12", "stray '\ufffd'"), {}]


def test_depth_is_bounded_and_told_once() -> None:
    deep = b"[" * MOST_DEPTH + b"]" * MOST_DEPTH
    (value,) = read(deep)
    assert json.loads(json.dumps(value)) == value
    beyond = b"[" * 5000 + b"]" * 5000
    assert read(beyond, b"1 ") == [("JSON nesting depth limit exceeded",), 1]


def test_number_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parser, "MOST_TOKENS", 1000)
    many = b"[" + b"1," * json_parser.MOST_TOKENS + b"1]"
    assert read(many, b"{}") == [("JSON token count limit exceeded",), {}]


def test_bytes_of_a_value_are_bounded() -> None:
    string = b'"' + b"x" * 100_000 + b'"'
    many = b"[" + string + (b"," + string) * 20 + b"]"
    assert read(many, b"{}") == [("JSON token size limit exceeded",), {}]


def test_token_without_an_end_is_let_go() -> None:
    parser = JsonParser()
    told = 0
    for _ in range(80):
        told += len(list(parser.feed(b'"' + b"x" * 65536)))
        assert len(parser._lexer._data) <= json_lexer.MOST_TOKEN_BYTES + 2 * 65536
    assert told
    assert list(parser.feed(b'"\n{}'))[-1] == {}


def test_random_bytes_never_stop_it() -> None:
    source = random.Random(7)
    letters = b"{}[]:,\"'\\ \n\xff\x1b%0123456789.eE+-truefalsn\xc3\xa9u"
    for _ in range(300):
        noise = bytes(source.choices(letters, k=source.randrange(1, 400)))
        whole = read(noise, b'\n\xff\n{"b":2}')
        assert whole[-1] == {"b": 2}
        cut = sorted(source.sample(range(len(noise) + 1), k=min(5, len(noise))))
        pieces = [noise[a:b] for a, b in zip([0, *cut], [*cut, len(noise)], strict=True)]
        assert read(*pieces, b'\n\xff\n{"b":2}') == whole


def test_long_string_in_small_pieces_costs_little() -> None:
    parser = JsonParser()
    for _ in range(100_000):
        assert not list(parser.feed(b'"' if _ == 0 else b"x"))
    assert list(parser.feed(b'"')) == ["x" * 99_999]
