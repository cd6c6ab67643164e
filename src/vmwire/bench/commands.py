# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The bench machine's commands as text: one table of verbs, with QEMU's qtest spelling.

Transport is somebody else's: a script's file, a socket. ``execute`` takes a line and returns the
answer (``OK …``); a line that makes no sense is a ``ScriptError`` that says why.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from vmwire.bench.address_space import AccessError
from vmwire.bench.irq_lines import LINES
from vmwire.bench.script import ScriptError
from vmwire.errors import ConfigError
from vmwire.wire.frame import NO_OFFLOAD, Frame, Offload

if TYPE_CHECKING:
    from vmwire.bench.cards import Nic
    from vmwire.bench.machine import Bench

Verb = Callable[["Bench", list[str]], str]

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
MOST_DIGITS = 64
"""Of a number; with so many (leading zeros count) it may still be a word of 64 bits."""
WORDS = 1 << 64
"""No number may be as large: addresses, values and times have 64 bits."""
SIZES = {"b": 1, "w": 2, "l": 4, "q": 8}
IO_APIC = "ioapic"
MOST_BYTES = 64 << 20
"""The longest range that one line may ask for."""


def port_answer(value: int) -> str:
    """A port's value as qtest prints it."""
    return f"{value:#06x}"


def memory_answer(value: int) -> str:
    """A memory word as qtest prints it."""
    return f"{value:#018x}"


def execute(pc: Bench, line: str) -> str:
    """Carry out one line."""
    name, *words = line.split()
    entry = VERBS.get(name)
    if entry is None:
        raise ScriptError(f"unknown command '{name}'")
    usage, verb = entry
    least = sum(not word.startswith("[") for word in usage.split())
    most = len(words) if usage.endswith("…") else len(usage.split())
    if not least <= len(words) <= most:
        raise ScriptError(f"'{line[:80]}' should be '{name} {usage}'")
    try:
        return f"OK {verb(pc, words)}".rstrip()
    except (AccessError, ConfigError) as error:
        raise ScriptError(f"'{line[:80]}': {error}") from error


def number(word: str) -> int:
    """A number as it is written in a command."""
    if not _NUMBER.fullmatch(word):
        raise ScriptError(f"'{word[:40]}' is no number (decimal, or hexadecimal with 0x)")
    value = _value(word) if len(word) <= MOST_DIGITS else WORDS
    if value >= WORDS:
        raise ScriptError(f"'{word[:40]}' is beyond the 64-bit range")
    return value


def _value(word: str) -> int:
    if word[0] == "0" and word.isdecimal():  # as C reads it, and so QEMU
        return int(word, 8) if "8" not in word and "9" not in word else 0
    return int(word, 0)


def _length(word: str, least: int = 1) -> int:
    length = number(word)
    if not least <= length <= MOST_BYTES:
        raise ScriptError(f"a length of {length} isn't between {least} and {MOST_BYTES}")
    return length


def _bytes(word: str) -> bytes:
    try:
        return bytes.fromhex(word)
    except ValueError as error:
        raise ScriptError(f"'{word[:40]}' is not hexadecimal bytes") from error


def _switch(word: str, off: str, on: str) -> bool:
    if word not in (off, on):
        raise ScriptError(f"'{word}' is neither '{on}' nor '{off}'")
    return word == on


def _card(pc: Bench, name: str) -> Nic:
    if name not in pc.cards:
        raise ScriptError(f"there is no card '{name}'")
    return pc.cards[name]


# --- accesses


def _in(name: str) -> tuple[str, Verb]:
    return "PORT", lambda pc, words: port_answer(getattr(pc, name)(number(words[0])))


def _out(name: str) -> tuple[str, Verb]:
    most = (1 << 8 * SIZES[name[-1]]) - 1

    def verb(pc: Bench, words: list[str]) -> str:
        getattr(pc, name)(number(words[0]), number(words[1]) & most)
        return ""

    return "PORT VALUE", verb


def _load(name: str) -> tuple[str, Verb]:
    return "ADDRESS", lambda pc, words: memory_answer(getattr(pc, name)(number(words[0])))


def _store(name: str) -> tuple[str, Verb]:
    return "ADDRESS VALUE", _out(name)[1]


def _read(pc: Bench, words: list[str]) -> str:
    return f"0x{pc.read(number(words[0]), _length(words[1])).hex()}"


def _write(pc: Bench, words: list[str]) -> str:
    if not words[2].startswith("0x"):
        raise ScriptError(f"'{words[2][:40]}' is not hexadecimal bytes with 0x")
    return _put(pc, words, _bytes(words[2][2:]))


def _b64read(pc: Bench, words: list[str]) -> str:
    return base64.b64encode(pc.read(number(words[0]), _length(words[1], 0))).decode()


def _b64write(pc: Bench, words: list[str]) -> str:
    try:
        data = base64.b64decode(words[2], validate=True)
    except ValueError as error:
        raise ScriptError(f"'{words[2][:40]}' is not base64") from error
    return _put(pc, words, data)


def _put(pc: Bench, words: list[str], data: bytes) -> str:
    """Write as many bytes as the length says: QEMU fills up with zeros, or leaves the rest out."""
    length = _length(words[1])
    pc.write(number(words[0]), data[:length].ljust(length, b"\0"))
    return ""


def _memset(pc: Bench, words: list[str]) -> str:
    pc.memset(number(words[0]), _length(words[1], 0), number(words[2]))
    return ""


# --- time


def _clock_step(pc: Bench, words: list[str]) -> str:
    return str(pc.clock_step(number(words[0]) if words else None))


def _clock_set(pc: Bench, words: list[str]) -> str:
    return str(pc.clock_set(number(words[0])))


# --- interrupts


def _intercept(inward: bool) -> tuple[str, Verb]:
    def verb(pc: Bench, words: list[str]) -> str:
        path, _, name = words[0].rpartition("/")
        if name == IO_APIC and path in ("", "/machine/i440fx") and pc.board is not None:
            pc.intercept(None)
        elif name in pc.cards and path in ("", "/machine/peripheral"):
            if inward:
                raise ScriptError("No intercepts installed")
            pc.intercept(name)
        else:
            raise ScriptError("Unknown device")
        return ""

    return "DEVICE", verb


def _set_irq_in(pc: Bench, words: list[str]) -> str:
    line = number(words[2])
    if words[:2] != [IO_APIC, "unnamed-gpio-in"] or line >= LINES:
        raise ScriptError("Unknown device")
    pc.drive_line(line, number(words[3]) != 0)
    return ""


# --- cards and wires


def _plug(pc: Bench, words: list[str]) -> str:
    pc.plug_text(words[0])
    return ""


def _send(pc: Bench, words: list[str]) -> str:
    return str(_card(pc, words[0]).wire.send([_frame(word) for word in words[1:]]))


def _frame(word: str) -> Frame:
    data, colon, offload = word.partition(":")
    data = "" if data == "-" else data
    if not colon:
        return Frame.of(_bytes(data))
    header = _bytes(offload)
    if len(header) != len(NO_OFFLOAD.packed):
        raise ScriptError(f"an offload has {len(NO_OFFLOAD.packed)} bytes, not {len(header)}")
    return Frame.of(_bytes(data), Offload.unpack(header))


def _link(pc: Bench, words: list[str]) -> str:
    _card(pc, words[0]).wire.set_link(_switch(words[1], "down", "up"))
    return ""


def _accept(pc: Bench, words: list[str]) -> str:
    _card(pc, words[0]).wire.accept_superframes(_switch(words[1], "packets", "all"))
    return ""


def _room(pc: Bench, words: list[str]) -> str:
    _card(pc, words[0]).wire.set_full(_switch(words[1], "yes", "no"))
    return ""


def _reset(pc: Bench, words: list[str]) -> str:
    pc.reset(_card(pc, words[0]))
    return ""


def _reload(pc: Bench, words: list[str]) -> str:
    pc.reload(_card(pc, words[0]))
    return ""


VERBS: dict[str, tuple[str, Verb]] = {
    **{name: _in(name) for name in ("inb", "inw", "inl")},
    **{name: _out(name) for name in ("outb", "outw", "outl")},
    **{name: _load(name) for name in ("readb", "readw", "readl", "readq")},
    **{name: _store(name) for name in ("writeb", "writew", "writel", "writeq")},
    "read": ("ADDRESS LENGTH", _read),
    "write": ("ADDRESS LENGTH 0xHEX", _write),
    "b64read": ("ADDRESS LENGTH", _b64read),
    "b64write": ("ADDRESS LENGTH BASE64", _b64write),
    "memset": ("ADDRESS LENGTH VALUE", _memset),
    "clock_step": ("[NS]", _clock_step),
    "clock_set": ("NS", _clock_set),
    "irq_intercept_in": _intercept(True),
    "irq_intercept_out": _intercept(False),
    "set_irq_in": ("DEVICE NAME NUMBER LEVEL", _set_irq_in),
    "endianness": ("", lambda pc, words: "little"),
    "plug": ("DRIVER,id=NAME,...", _plug),
    "reset": ("NAME", _reset),
    "reload": ("NAME", _reload),
    "send": ("NAME FRAME [FRAME]…", _send),
    "link": ("NAME up|down", _link),
    "accept": ("NAME all|packets", _accept),
    "room": ("NAME yes|no", _room),
}
"""Each command's arguments as its usage says, and what carries it out."""

QTEST_VERBS = frozenset(VERBS) - {"plug", "send", "link", "accept", "room", "reset", "reload"}
"""The commands that QEMU has too."""
