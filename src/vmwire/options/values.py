# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The values in options: what QEMU takes for a switch, a number, a size, an address, an id.

Two layers. The ``parse_*`` functions read one text and raise `ValueError`. A `ValueType` uses them
for one kind of option and knows the words around them: the type's name in help, the sentence that
QEMU says to a bad value, the type wanted in JSON. Converting takes two steps, because QEMU takes
two: `ValueType.read` checks the shape (and refuses ``on`` for a number), `ValueType.make` gives it
its meaning, after all shapes and keys were found right.

Spellings follow QEMU 7.2 to 11.1. Older ones differ at the edges only: before 6.0 a switch of a
netdev knew no ``true`` and ``false``, and one of a device knew no ``y`` and ``n``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from vmwire.errors import ConfigError

R = TypeVar("R")

TRUE = ("on", "yes", "true", "y")
FALSE = ("off", "no", "false", "n")

_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*", re.ASCII)
_INTEGER = re.compile(r"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))", re.ASCII)
_SIZE = re.compile(
    r"\s*\+?(?:0[xX](?P<hex>[0-9a-fA-F]+)|(?P<whole>[0-9]+)(?P<part>\.[0-9]*)?|(?P<only>\.[0-9]+))"
    r"(?P<suffix>[bBkKmMgGtTpPeE]?)",
    re.ASCII,
)
_MAC = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}", re.ASCII)
_SCALES = {suffix: 1 << 10 * power for power, suffix in enumerate("bkmgtpe")}


def is_id(text: str) -> bool:
    """QEMU's rule for an id: letters, digits, ``-._``, starting with a letter."""
    return _ID.fullmatch(text) is not None


def parse_bool(text: str) -> bool:
    """A switch; only these eight words, in lower case."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError("expects 'on' or 'off'")


def parse_int(text: str) -> int:
    """A whole number as C reads it: decimal, ``0x`` hexadecimal or ``0`` octal, with a sign."""
    value, rest = read_int(text)
    if rest:
        raise ValueError("expects a number")
    return value


def read_int(text: str) -> tuple[int, str]:
    """The number that ``text`` starts with, and what follows it."""
    match = _INTEGER.match(text)
    if match is None:
        raise ValueError("expects a number")
    sign, hexadecimal, octal, decimal = match.groups()
    if hexadecimal is not None:
        value = int(hexadecimal, 16)
    else:
        value = int(decimal) if decimal is not None else int(octal or "0", 8)
    return (-value if sign == "-" else value), text[match.end() :]


def parse_size(text: str, unit: int = 1) -> int:
    """A size in bytes: ``512``, ``0x200``, ``4k``, ``1.5G``; ``unit`` scales a bare number.

    Suffixes are B, k, M, G, T, P, E in either case, powers of 1024. ``-m`` counts in MiB:

    >>> parse_size("1.5G") == parse_size("1536", unit=1 << 20) == 1536 << 20
    True
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("expects a size")
    scale = _SCALES[match["suffix"].lower()] if match["suffix"] else unit
    fraction = match["only"] or match["part"] or "."
    if scale == 1 and fraction.strip(".0"):
        raise ValueError("expects a size in whole bytes")
    whole = int(match["hex"], 16) if match["hex"] else int(match["whole"] or 0)
    digits = fraction[1:]
    size: int = whole * scale + int(digits or 0) * scale // 10 ** len(digits)
    if size >= 1 << 64:
        raise ValueError("is out of range")
    return size


def parse_mac(text: str) -> bytes:
    """Six bytes in hexadecimal, two digits each, with colons or dashes between."""
    if not _MAC.fullmatch(text):
        raise ValueError("expects an address like 52:54:00:12:34:56")
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


LONGEST_SOCKET_PATH = 107
"""Bytes in a Unix socket's path (unix(7): 108 with the closing zero)."""


def check_socket_path(path: str | None) -> None:
    """Refuse what can't be a Unix socket's path."""
    if path is not None and not 0 < len(path.encode()) <= LONGEST_SOCKET_PATH:
        raise ConfigError(
            f"socket path '{path}' must have 1 to {LONGEST_SOCKET_PATH} bytes,"
            f" it has {len(path.encode())}"
        )


def format_mac(mac: bytes) -> str:
    return mac.hex(":")


_ADDRESS_PART = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*", re.ASCII)


def parse_ipv4(text: str) -> bytes:
    """An IPv4 address, as inet_aton(3) reads it: ``10.0.2.2``, but ``10.2`` is ``10.0.0.2`` too.

    The last of one to four parts fills the bytes that are left. QEMU takes these forms, and so do
    we; what follows white space is ignored there.
    """
    parts = re.split(r"\s", text, maxsplit=1)[0].split(".")
    if len(parts) > 4 or not all(map(_ADDRESS_PART.fullmatch, parts)):
        raise ValueError("expects an IPv4 address")
    *heads, last = [parse_int(part) for part in parts]
    tail = 4 - len(heads)
    if any(head > 255 for head in heads) or last >= 1 << 8 * tail:
        raise ValueError("expects an IPv4 address")
    return bytes(heads) + last.to_bytes(tail, "big")


# --- types ------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Where:
    """Whose value is read: the option's key, and the device if it is a device's property."""

    key: str
    device: str | None = None


@dataclass(slots=True, frozen=True)
class ValueType:
    """One kind of value. This base is the type of a plain string."""

    name: str = "str"
    json: str = "string"
    python: type = str
    syntax: str = ""
    """What help says of the spelling."""

    def read(self, where: Where, text: str) -> Any:
        """The shape of a value that was typed."""
        return text

    def read_json(self, where: Where, value: Any) -> Any:
        """The shape of a JSON value."""
        if type(value) is not self.python:
            raise ConfigError(f"Invalid parameter type for '{where.key}', expected: {self.json}")
        return value

    def read_python(self, where: Where, value: Any) -> Any:
        """The shape of a value that Python code gives: a text, or what JSON has."""
        return self.read(where, value) if isinstance(value, str) else self.read_json(where, value)

    def make(self, where: Where, shape: Any) -> Any:
        """The meaning of a value whose shape is right."""
        return shape

    def items(self, key: str, value: Any) -> list[tuple[str, str]]:
        """The keys and texts that give this value to the option ``key``."""
        return [(key, self.show(value))]

    def members(self) -> list[tuple[str, Any]]:
        """For help: the options that a value consists of (`table.Entry`), if it does."""
        return []

    def show(self, value: Any) -> str:
        """The value as QEMU writes it (and reads it)."""
        return str(value)


@dataclass(slots=True, frozen=True)
class BoolType(ValueType):
    name: str = "bool"
    json: str = "boolean"
    python: type = bool
    syntax: str = "on/off"

    def read(self, where: Where, text: str) -> bool:
        try:
            return parse_bool(text)
        except ValueError as error:
            raise ConfigError(f"Parameter '{where.key}' {error}") from None

    def show(self, value: Any) -> str:
        return "on" if value else "off"


@dataclass(slots=True, frozen=True)
class IntType(ValueType):
    """A number of ``bits``, as a C integer type limits it."""

    bits: int = 32
    signed: bool = True
    json: str = "integer"
    python: type = int

    def read(self, where: Where, text: str) -> int:
        try:
            value = parse_int(text)
        except ValueError:
            if where.device:
                words = "integer"
            else:
                words = "an int64 value" if self.signed else "a uint64 value"
            raise ConfigError(f"Parameter '{where.key}' expects {words}") from None
        return self._in_range(where, value)

    def read_json(self, where: Where, value: Any) -> int:
        if not self.signed and type(value) is not int:
            raise ConfigError(f"Parameter '{where.key}' expects uint64")
        number: int = ValueType.read_json(self, where, value)
        return self._in_range(where, number)

    def _in_range(self, where: Where, value: int) -> int:
        low = -(1 << self.bits - 1) if self.signed else 0
        if not low <= value < low + (1 << self.bits):
            raise ConfigError(f"Parameter '{where.key}' expects {self.name}_t")
        return value


@dataclass(slots=True, frozen=True)
class SizeType(IntType):
    """A number of bytes, which text may give with a suffix."""

    name: str = "size"
    bits: int = 64
    signed: bool = False

    def read(self, where: Where, text: str) -> int:
        try:
            return parse_size(text)
        except ValueError:
            words = "size" if where.device else "a size value"
            raise ConfigError(f"Parameter '{where.key}' expects {words}") from None


@dataclass(slots=True, frozen=True)
class ChoiceType(ValueType):
    """One of a few words."""

    words: tuple[str, ...] = ()

    def make(self, where: Where, shape: Any) -> Any:
        if shape not in self.words:
            raise ConfigError(f"Parameter '{where.key}' does not accept value '{shape}'")
        return shape


@dataclass(slots=True, frozen=True)
class IdType(ValueType):
    """An id. QEMU checks those that are typed; in JSON it takes any string for a netdev."""

    def read(self, where: Where, text: str) -> str:
        if not is_id(text):
            raise ConfigError(f"Parameter '{where.key}' expects an identifier")
        return text

    def read_json(self, where: Where, value: Any) -> Any:
        identifier = ValueType.read_json(self, where, value)
        if where.device and not is_id(identifier):
            raise ConfigError(f"Invalid qdev ID '{identifier}'")
        return identifier


@dataclass(slots=True, frozen=True)
class ParsedType(ValueType):
    """A string with a meaning of its own.

    ``parse`` reads it and raises `ValueError` with the whole sentence, in which ``{key}``,
    ``{device}`` and ``{value}`` stand for what was typed.
    """

    result: type = object
    parse: Callable[[str], Any] = str
    written: Callable[[Any], str] = str

    def read_python(self, where: Where, value: Any) -> Any:
        return (
            value if isinstance(value, self.result) else ValueType.read_python(self, where, value)
        )

    def make(self, where: Where, shape: Any) -> Any:
        if not isinstance(shape, str):
            return shape  # a caller from Python gave the value itself
        try:
            return self.parse(shape)
        except ValueError as error:
            words = str(error).replace("{key}", where.key).replace("{device}", str(where.device))
            raise ConfigError(words.replace("{value}", shape)) from None

    def show(self, value: Any) -> str:
        return self.written(value)


def said(parse: Callable[[str], R], sentence: str) -> Callable[[str], R]:
    """``parse`` with another sentence for its `ValueError`."""

    def parse_or_say(text: str) -> R:
        try:
            return parse(text)
        except ValueError:
            raise ValueError(sentence) from None

    return parse_or_say


STRING = ValueType()
BOOL = BoolType()
INT32 = IntType("int32")
UINT16 = IntType("uint16", bits=16, signed=False)
UINT32 = IntType("uint32", bits=32, signed=False)
UINT64 = IntType("uint64", bits=64, signed=False)
SIZE = SizeType()
IDENTIFIER = IdType()
ON_OFF_AUTO = ChoiceType("OnOffAuto", words=("on", "off", "auto"), syntax="on/off/auto")
