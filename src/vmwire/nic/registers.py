# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Registers as a table in a class body.

Each line is a register by its data-sheet name: offset, value after reset, bits that software can
write, whether reading clears it. What a register *does* hangs on the register object, so that a
misspelt name, an overlap or a second handler fails when the module is imported.

All registers of a bank are one flat list of 32-bit ``words``, indexed by offset / 4. So reset,
dump, save and restore come from the table, and a chip's parts share the list: per-frame code says
``words[TDH]`` with ``TDH = Registers.TDH.index``.

>>> class Example(Bank, size=16):
...     CTRL = Register(0, reset=0x40, mask=0xFF)
...     CAUSE = Register(4, clear_on_read=True)
...     @CTRL.on_write
...     def _on_ctrl(self, value: int) -> None:
...         self.CAUSE |= value & 1
>>> bank = Example()
>>> bank.store32(0, 0xF01)
>>> hex(bank.CTRL), bank.load32(4), bank.load32(4)
('0x1', 1, 0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from struct import pack, unpack
from typing import Any, ClassVar, TypeVar, overload

ONES = 0xFFFFFFFF

Function = TypeVar("Function", bound=Callable[..., Any])
Effect = tuple[str, "Register | Array"]

_EFFECTS = "_register_effects"


class _Place:
    """What registers and arrays have in common: where they are, and what hangs on them."""

    def __init__(self, offset: int, count: int, step: int, reset: int, mask: int) -> None:
        if offset % 4 or step % 4:
            raise TypeError(f"a register at {offset:#x}, which isn't a whole word")
        self.offset = offset
        self.index = offset // 4
        self.count = count
        self.step = step // 4
        self.reset = reset
        self.mask = mask
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def indexes(self) -> range:
        """Which words it is made of."""
        return range(self.index, self.index + self.count * self.step, self.step)


class Register(_Place):
    """One 32-bit register. ``mask``: the bits that software can write."""

    def __init__(
        self, offset: int, *, reset: int = 0, mask: int = ONES, clear_on_read: bool = False
    ) -> None:
        super().__init__(offset, 1, 4, reset, mask)
        self.clear_on_read = clear_on_read

    @overload
    def __get__(self, bank: None, owner: type) -> Register: ...
    @overload
    def __get__(self, bank: Bank, owner: type) -> int: ...
    def __get__(self, bank: Bank | None, owner: type) -> Register | int:
        return self if bank is None else bank.words[self.index]

    def __set__(self, bank: Bank, value: int) -> None:
        bank.words[self.index] = value

    def on_write(self, function: Function) -> Function:
        """Have ``function(self, value)`` called with what was written, after it was stored."""
        return _mark(function, "write", self)

    def on_read(self, function: Function) -> Function:
        """Have ``function(self) -> int`` answer reads."""
        return _mark(function, "read", self)


class Array(_Place):
    """``count`` registers, ``step`` bytes apart."""

    def __init__(
        self, offset: int, count: int, *, step: int = 4, reset: int = 0, mask: int = ONES
    ) -> None:
        super().__init__(offset, count, step, reset, mask)

    @overload
    def __get__(self, bank: None, owner: type) -> Array: ...
    @overload
    def __get__(self, bank: Bank, owner: type) -> list[int]: ...
    def __get__(self, bank: Bank | None, owner: type) -> Array | list[int]:
        if bank is None:
            return self
        return [bank.words[index] for index in self.indexes]

    def on_write(self, function: Function) -> Function:
        """Have ``function(self, value)`` called after any of them was stored."""
        return _mark(function, "write", self)


def _mark(function: Function, kind: str, place: Register | Array) -> Function:
    effects: list[Effect] = getattr(function, _EFFECTS, [])
    setattr(function, _EFFECTS, [*effects, (kind, place)])
    return function


class Bank:
    """A window of registers. Subclasses declare them; ``size`` is the window's in bytes.

    A class may derive from several banks: it has the registers and the handlers of all of them.
    """

    SIZE: ClassVar[int] = 0
    TABLE: ClassVar[Mapping[str, Register | Array]] = {}
    masks: ClassVar[list[int]] = []
    _declared: ClassVar[list[int]] = []
    _resets: ClassVar[list[int]] = []
    _readers: ClassVar[dict[int, Callable[[Any], int]]] = {}
    _writers: ClassVar[dict[int, Callable[[Any, int], None]]] = {}

    def __init_subclass__(cls, *, size: int | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if size is not None:
            cls.SIZE = size
        own = dict(_registers_of(cls))
        banks = [base for base in reversed(cls.__mro__) if issubclass(base, Bank)]
        cls.TABLE = {name: it for bank in banks for name, it in _registers_of(bank)}
        cls._lay_out()
        cls._readers = {at: it for bank in banks for at, it in bank._readers.items()}
        cls._writers = {at: it for bank in banks for at, it in bank._writers.items()}
        for place in own.values():
            if isinstance(place, Register) and place.clear_on_read:
                cls._readers[place.offset] = _clearing(place.index)
        cls._hang_effects()

    @classmethod
    def _lay_out(cls) -> None:
        words = cls.SIZE // 4
        cls.masks, cls._resets = [0] * words, [0] * words
        taken: dict[int, str] = {}
        for name, place in cls.TABLE.items():
            for index in place.indexes:
                if index in taken:
                    raise TypeError(f"{cls.__name__}.{name} lies on {taken[index]}")
                if index >= words:
                    raise TypeError(f"{cls.__name__}.{name} lies outside of the window")
                taken[index] = name
                cls.masks[index] = place.mask
                cls._resets[index] = place.reset
        cls._declared = sorted(taken)

    @classmethod
    def _hang_effects(cls) -> None:
        seen: set[tuple[str, int]] = set()
        for name, function in vars(cls).items():
            effects: list[Effect] = getattr(function, _EFFECTS, [])
            for kind, place in effects:
                if cls.TABLE.get(place.name) is not place:
                    raise TypeError(f"{cls.__name__}.{name} hangs on {place.name}, not in here")
                for index in place.indexes:
                    if (kind, index) in seen:
                        raise TypeError(f"{cls.__name__}.{name}: {place.name} has a handler")
                    seen.add((kind, index))
                    handlers: dict[int, Any] = cls._readers if kind == "read" else cls._writers
                    handlers[index * 4] = function

    @classmethod
    def add_aliases(cls, aliases: Mapping[int, int]) -> None:
        """Have accesses to some offsets mean others."""
        cls._readers |= {at: _reading(target) for at, target in aliases.items()}
        cls._writers |= {at: _writing(target) for at, target in aliases.items()}

    def __init__(self) -> None:
        self.words = list(self._resets)
        self._reader_of: Callable[[int], Callable[[Any], int] | None] = self._readers.get

    def hide(self, names: Iterable[str]) -> None:
        """Have these registers read as zero from now on."""
        indices = (index for name in names for index in self.TABLE[name].indexes)
        self._reader_of = {**self._readers, **{4 * at: _read_nothing for at in indices}}.get

    def load32(self, offset: int) -> int:
        """Read the register at ``offset`` (a multiple of 4, inside), with its side effects."""
        reader = self._reader_of(offset)
        return self.words[offset >> 2] if reader is None else reader(self)

    def store32(self, offset: int, value: int) -> None:
        """Write the register at ``offset``, with its side effects."""
        index = offset >> 2
        mask = self.masks[index]
        words = self.words
        words[index] = words[index] & ~mask | value & mask
        writer = self._writers.get(offset)
        if writer is not None:
            writer(self, value)

    def reset_registers(self) -> None:
        """Give every register its value after reset."""
        self.words[:] = self._resets

    def dump(self) -> dict[str, int]:
        """Return all registers by name without side effects (``RA[3]`` for those of arrays)."""
        return dict(self._named())

    def _named(self) -> Iterator[tuple[str, int]]:
        for name, place in self.TABLE.items():
            for number, index in enumerate(place.indexes):
                single = isinstance(place, Register)
                yield (name if single else f"{name}[{number}]"), self.words[index]

    def save_registers(self) -> bytes:
        """Return the whole block: the declared words by rising offset, little-endian."""
        words = self.words
        return pack(f"<{len(self._declared)}I", *[words[index] for index in self._declared])

    def restore_registers(self, block: bytes) -> None:
        """Take on a block that ``save_registers`` gave. ValueError if it isn't one."""
        if len(block) != 4 * len(self._declared):
            raise ValueError(f"a block of {len(block)} bytes for {len(self._declared)} registers")
        found = unpack(f"<{len(self._declared)}I", block)
        for index, value in zip(self._declared, found, strict=True):
            self.words[index] = value


def _registers_of(bank: type[Bank]) -> Iterator[tuple[str, Register | Array]]:
    """What a class declares itself."""
    for name, it in vars(bank).items():
        if isinstance(it, Register | Array):
            yield name, it


def _read_nothing(bank: Bank) -> int:
    return 0


def _reading(offset: int) -> Callable[[Bank], int]:
    return lambda bank: bank.load32(offset)


def _writing(offset: int) -> Callable[[Bank, int], None]:
    return lambda bank, value: bank.store32(offset, value)


def _clearing(index: int) -> Callable[[Bank], int]:
    def read(bank: Bank) -> int:
        value = bank.words[index]
        bank.words[index] = 0
        return value

    return read
