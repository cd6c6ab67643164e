# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""JSON's tokens out of a stream of bytes that is cut anywhere (RFC 8259, with QEMU's extras).

QMP's input isn't line-based: objects follow each other, several in one read or one in many. So a
token that the data ends in waits for more. Strings may stand in single quotes too.

*Faults.* A byte that can't go on is told as a token ``ERROR`` with what was read of its token, and
everything up to the next structural character or control character is passed over: a client
brings a parser whose state it doesn't know back to the start by sending a byte 0xFF.

Positions are line and column of a token's first byte, as QEMU counts them (whose column is one too
high for a token that directly follows a number, a word or a fault; a client that compares texts
finds the same here).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MOST_TOKEN_BYTES = 1 << 20

STRING = "string"
NUMBER = "number"
WORD = "word"
ERROR = "error"
TOO_LONG = "too long"
"""Kinds of token; a structural character is a kind of its own."""

STRUCTURE = b"[]{}:,"

_SPACE = re.compile(rb"[ \t\r\n]*")
_WORD = re.compile(rb"[a-z]+")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_SO_FAR = re.compile(
    rb"-?(?:(?:0|[1-9][0-9]*)(?:\.(?:[0-9]+(?:[eE][+-]?[0-9]*)?)?|[eE][+-]?[0-9]*)?)?"
)
_BODIES = {
    quote: re.compile(rb"(?:[^%c\\\x00-\x1f\xfe\xff]|\\[^\x00-\x1f\xfe\xff])*" % quote)
    for quote in b"\"'"
}
_END_OF_FAULT = re.compile(rb"[\x00-\x1f\xfe\xff\[\]{}:,]")


@dataclass(slots=True)
class Token:
    """``text`` is what stands there, quotes and all."""

    kind: str
    text: bytes
    line: int
    column: int


class Lexer:
    """Bytes in (``feed``), tokens out (``tokens``)."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0
        self._scanned = 0
        """How far a string that isn't complete was looked at."""
        self._line = 1
        self._line_start = 0
        """Where the current line began, counted as ``_at`` is."""
        self._passing_over = False
        self._close = False
        """Whether the token before ended just where the next one begins."""

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._data += data

    def tokens(self) -> Iterator[Token]:
        """Give the tokens that are complete."""
        while (token := self._next()) is not None:
            yield token
        self._forget()

    def _forget(self) -> None:
        """Let go of what has been read."""
        self._line_start -= self._at
        self._scanned = max(0, self._scanned - self._at)
        del self._data[: self._at]
        self._at = 0

    def _next(self) -> Token | None:
        if self._passing_over and not self._pass_over():
            return None
        if self._skip_space():
            self._close = False
        if self._at == len(self._data):
            return None
        first = self._data[self._at]
        if first in STRUCTURE:
            return self._token(chr(first), 1)
        if first in _BODIES:
            return self._string(first)
        if first == ord("-") or 0x30 <= first <= 0x39:
            return self._number()
        if 0x61 <= first <= 0x7A:
            return self._word()
        return self._fault(1)

    def _pass_over(self) -> bool:
        """Go on behind a fault; False if its end hasn't come yet."""
        found = _END_OF_FAULT.search(self._data, self._at)
        self._at = len(self._data) if found is None else found.start()
        if found is None:
            return False
        self._passing_over = False
        byte = self._data[self._at]
        self._close = byte >= 0x20
        if byte < 0x20 and byte not in b"\t\r\n":
            self._at += 1
        return True

    def _skip_space(self) -> bool:
        found = _SPACE.match(self._data, self._at)
        assert found is not None
        if found.end() == self._at:
            return False
        lines = self._data.count(b"\n", self._at, found.end())
        if lines:
            self._line += lines
            self._line_start = self._data.rindex(b"\n", self._at, found.end()) + 1
        self._at = found.end()
        return True

    # Tokens

    def _token(self, kind: str, length: int, *, close: bool = False) -> Token:
        """The next ``length`` bytes; ``close`` says that only the byte behind told their end."""
        start = self._at
        column = start - self._line_start + 1 + self._close
        self._at += length
        self._close = close
        return Token(kind, bytes(self._data[start : self._at]), self._line, column)

    def _fault(self, length: int) -> Token:
        token = self._token(ERROR, length, close=True)
        self._passing_over = True
        self._scanned = 0
        if token.text.endswith(b"\n"):
            self._line += 1
            self._line_start = self._at
        return token

    def _unfinished(self) -> Token | None:
        if len(self._data) - self._at <= MOST_TOKEN_BYTES:
            return None
        token = self._fault(1)
        token.kind = TOO_LONG
        self._at = len(self._data)
        return token

    def _string(self, quote: int) -> Token | None:
        begin = max(self._at + 1, self._scanned)
        found = _BODIES[quote].match(self._data, begin)
        assert found is not None
        end = found.end()
        self._scanned = end
        rest = self._data[end : end + 2]
        if not rest or rest == b"\\":
            return self._unfinished()
        self._scanned = 0
        length = end - self._at
        if rest[0] == quote:
            return self._token(STRING, length + 1)
        return self._fault(length + (2 if rest[0] == ord("\\") else 1))

    def _number(self) -> Token | None:
        found = _NUMBER_SO_FAR.match(self._data, self._at)
        assert found is not None
        end = found.end()
        if end == len(self._data):
            return self._unfinished()
        text = found.group()
        more = 0x30 <= self._data[end] <= 0x39  # a digit behind a leading zero
        if more or _NUMBER.fullmatch(text) is None:
            return self._fault(len(text) + 1)
        return self._token(NUMBER, len(text), close=True)

    def _word(self) -> Token | None:
        found = _WORD.match(self._data, self._at)
        assert found is not None
        if found.end() == len(self._data):
            return self._unfinished()
        return self._token(WORD, found.end() - self._at, close=True)
