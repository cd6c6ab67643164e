# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""JSON values out of a stream of bytes, one after another; faults are told and the stream goes on.

    parser = JsonParser()
    for value in parser.feed(b'{"execute": "stop"} {"execute"'): ...

Each result is a value or a `JsonFault`. A fault is told at the token that can't be, in QEMU's
words; what belongs to the same object is then passed over, which is until its brackets are
balanced. A byte that begins no token forgets them.

What an object may cost is bounded: depth, bytes, tokens (a token of one byte can make a Python
object of sixty).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from vmwire.monitor.json_lexer import ERROR, NUMBER, STRING, TOO_LONG, WORD, Lexer, Token

MOST_DEPTH = 512
"""QEMU takes twice as much; so much can be written out again by Python (an ``id`` is)."""
MOST_TOKENS = 100_000
MOST_BYTES = 1 << 20

WORDS = {b"true": True, b"false": False, b"null": None}
ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\",
           '"': '"', "'": "'"}  # fmt: skip

_ESCAPE = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))",
    re.DOTALL,
)
_NO_CHARACTER = re.compile("[\ufdd0-\ufdef\ufffe\uffff]")


class JsonFault(ValueError):
    """What is wrong with the input, as a client is told."""


def fault_at(token: Token, words: str) -> JsonFault:
    return JsonFault(f"{token.line}:{token.column}: JSON parse error, {words}")


class JsonParser:
    """One stream's parser. ``feed`` gives the values that became complete, and the faults."""

    def __init__(self) -> None:
        self._lexer = Lexer()
        self._begin()

    def _begin(self) -> None:
        """Stand before a value."""
        self._open: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str] = []
        """Of each object that is open: the key whose value comes."""
        self._expect = self._expect_value
        self._braces = self._brackets = 0
        self._tokens = self._bytes = 0
        self._passing_over = False
        self._done: list[Any] = []

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take what has come."""
        self._lexer.feed(data)
        for token in self._lexer.tokens():
            yield from self._take(token)

    def _take(self, token: Token) -> Iterator[Any]:
        if token.kind in (ERROR, TOO_LONG):
            self._begin()
            yield _lexical_fault(token)
            return
        self._count(token.kind)
        if not self._passing_over:
            try:
                self._check_limits(token)
                self._expect(token)
            except JsonFault as fault:
                self._passing_over = True
                yield fault
        if self._done:
            yield self._done[0]
        if self._done or self._is_balanced():
            self._begin()

    def _count(self, kind: str) -> None:
        self._braces += (kind == "{") - (kind == "}")
        self._brackets += (kind == "[") - (kind == "]")

    def _is_balanced(self) -> bool:
        least, most = sorted((self._braces, self._brackets))
        return least < 0 or most == 0

    def _check_limits(self, token: Token) -> None:
        self._tokens += 1
        self._bytes += len(token.text)
        if self._braces + self._brackets > MOST_DEPTH:
            raise JsonFault("JSON nesting depth limit exceeded")
        if self._tokens > MOST_TOKENS:
            raise JsonFault("JSON token count limit exceeded")
        if self._bytes > MOST_BYTES:
            raise JsonFault("JSON token size limit exceeded")

    # What may come next

    def _expect_value(self, token: Token) -> None:
        if token.kind == "{":
            self._open.append({})
            self._expect = self._expect_first_key
        elif token.kind == "[":
            self._open.append([])
            self._expect = self._expect_first_value
        else:
            self._put(token, _scalar(token))

    def _expect_first_value(self, token: Token) -> None:
        if token.kind == "]":
            self._put(token, self._open.pop())
        else:
            self._expect_value(token)

    def _expect_first_key(self, token: Token) -> None:
        if token.kind == "}":
            self._put(token, self._open.pop())
        else:
            self._expect_key(token)

    def _expect_key(self, token: Token) -> None:
        if token.kind != STRING:
            raise fault_at(token, "expecting key")
        self._keys.append(_string(token))
        self._expect = self._expect_colon

    def _expect_colon(self, token: Token) -> None:
        if token.kind != ":":
            raise fault_at(token, "expecting ':'")
        self._expect = self._expect_value

    def _expect_more_members(self, token: Token) -> None:
        if token.kind == "}":
            self._put(token, self._open.pop())
        elif token.kind == ",":
            self._expect = self._expect_key
        else:
            raise fault_at(token, "expected ',' or '}'")

    def _expect_more_values(self, token: Token) -> None:
        if token.kind == "]":
            self._put(token, self._open.pop())
        elif token.kind == ",":
            self._expect = self._expect_value
        else:
            raise fault_at(token, "expected ',' or ']'")

    def _put(self, token: Token, value: Any) -> None:
        """Put a complete value where it belongs."""
        if not self._open:
            self._done.append(value)
            return
        around = self._open[-1]
        if isinstance(around, list):
            around.append(value)
            self._expect = self._expect_more_values
            return
        key = self._keys.pop()
        if key in around:
            raise fault_at(token, "duplicate key")
        around[key] = value
        self._expect = self._expect_more_members


def _lexical_fault(token: Token) -> JsonFault:
    if token.kind == TOO_LONG:
        return JsonFault("JSON token size limit exceeded")
    return fault_at(token, f"stray '{token.text.decode(errors='replace')}'")


def _scalar(token: Token) -> Any:
    if token.kind == STRING:
        return _string(token)
    if token.kind == NUMBER:
        return _number(token)
    if token.kind != WORD:
        raise fault_at(token, "expecting value")
    if token.text not in WORDS:
        raise fault_at(token, f"invalid keyword '{token.text.decode()}'")
    return WORDS[token.text]


def _number(token: Token) -> int | float:
    """A whole number that 64 bits hold, else a floating one."""
    if len(token.text) <= 20 and token.text.lstrip(b"-").isdigit():
        value = int(token.text)
        if -(1 << 63) <= value < 1 << 64:
            return value
    number = float(token.text)
    if math.isinf(number):
        raise fault_at(token, "number out of range")
    return number


def _string(token: Token) -> str:
    try:
        text = token.text[1:-1].replace(b"\xc0\x80", b"\0").decode()
    except UnicodeDecodeError:
        raise fault_at(token, "invalid UTF-8 sequence in string") from None
    if _NO_CHARACTER.search(text):
        raise fault_at(token, "invalid UTF-8 sequence in string")
    if "\\" not in text:
        return text
    whole = text + token.text[-1:].decode()
    return _ESCAPE.sub(lambda match: _unescape(token, whole, match), text)


def _unescape(token: Token, whole: str, match: re.Match[str]) -> str:
    high, low, unit, letter = match.groups()
    if high is not None:
        return chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF))
    if letter == "u" or (unit is not None and _is_no_character(int(unit, 16))):
        start = match.start()
        raise fault_at(token, f"{whole[start : start + 6]} is not a valid Unicode character")
    if unit is not None:
        return chr(int(unit, 16))
    if letter not in ESCAPES:
        raise fault_at(token, "invalid escape sequence in string")
    return ESCAPES[letter]


def _is_no_character(unit: int) -> bool:
    return 0xD800 <= unit <= 0xDFFF or _NO_CHARACTER.match(chr(unit)) is not None
