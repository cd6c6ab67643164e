# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Declared option tables: a type's options stand beside its class, once.

A record is a dataclass; each field that `option` made is one option. Parsing from QEMU's text or
JSON, keyword arguments from Python, defaults, help and writing it back all come from that.

>>> from vmwire.options.values import BOOL, IDENTIFIER, STRING
>>> @record("netdev", "example")
... @dataclasses.dataclass(slots=True, kw_only=True)
... class ExampleOptions:
...     id: str = option(IDENTIFIER, required=True, help="name of this netdev")
...     loud: bool = option(BOOL, default=False, help="whether to say what happens")
...     peer: list[str] = option(STRING, repeated=True, help="may be given several times")
>>> table_of(ExampleOptions).from_text("example,id=x,loud,peer=a,peer=b")
ExampleOptions(id='x', loud=True, peer=['a', 'b'])
>>> table_of(ExampleOptions).from_kwargs(id="x", peer=["c"]).peer
['c']
>>> table_of(ExampleOptions).to_text(ExampleOptions(id="x", loud=True))
'example,id=x,loud=on'

What spans several fields is checked in the record's ``__post_init__``, so a record that exists is
right, whoever made it. Errors are `ConfigError` in QEMU's words, in the order in which QEMU finds
them: shapes of the values, unknown keys, meanings, what spans fields.

A key that QEMU has and vmwire has not is told from a misspelt one: `record(..., later=...)` lists
them, and `NotServedError` says so. A VM's netdev that gets this error can stay with QEMU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vmwire.errors import ConfigError
from vmwire.options.syntax import Item, JsonOptions, OptionList, nest, parse
from vmwire.options.values import ValueType, Where

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
_METADATA = "vmwire option"
_HELP_COLUMN = 24


class NotServedError(ConfigError):
    """Right for QEMU, but not served by vmwire yet."""


@dataclasses.dataclass(slots=True, frozen=True)
class Option:
    """What one option takes; `option` puts it into a field."""

    type: ValueType
    help: str = ""
    key: str = ""
    """As QEMU spells it; without one, the field's name (with dashes for a netdev)."""
    required: bool = False
    repeated: bool = False
    ours: bool = False
    """An option of vmwire's that QEMU doesn't know."""
    hidden: bool = False
    """Not in the help, as QEMU leaves out what every device has."""
    owner: str | None = None
    """The device that error messages name, where it isn't the record's own name."""
    feature: int = 0
    """The mask of the virtio feature that this switches, if it does."""


def option(type: ValueType, *, default: Any = None, repeated: bool = False, **about: Any) -> Any:
    """A dataclass field that is an option; ``about`` are further fields of `Option`.

    A repeated option is a list (empty by default), a required one has no usable default.
    """
    metadata = {_METADATA: Option(type, repeated=repeated, **about)}
    if repeated:
        return dataclasses.field(default_factory=list, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(slots=True, frozen=True)
class Kind:
    """A family of records and the command-line option that makes them."""

    name: str
    selector: str
    """The key that names the type, and that the first item may leave out."""
    is_device: bool = False


KINDS = {
    "netdev": Kind("netdev", "type"),
    "device": Kind("device", "driver", is_device=True),
    "object": Kind("object", "qom-type"),
    "chardev": Kind("chardev", "backend"),
    "net": Kind("net", "type"),
}


@dataclasses.dataclass(slots=True, frozen=True)
class Entry:
    """One option as a table keeps it."""

    field: str
    option: Option
    where: Where
    default: Any


def entries_of(record_type: type[DataclassInstance], device: str | None) -> dict[str, Entry]:
    """The options among a class's fields, by key, in their order."""
    entries = {}
    for field in dataclasses.fields(record_type):
        if _METADATA in field.metadata:
            option: Option = field.metadata[_METADATA]
            key = option.key or (field.name if device else field.name.replace("_", "-"))
            where = Where(key, (option.owner or device) if device else None)
            default = [] if option.repeated else field.default
            entries[key] = Entry(field.name, option, where, default)
    return entries


class Table(Generic[T]):
    """The options of one record type: made by `record`, found by `table_of` or `find`."""

    def __init__(self, kind: Kind, name: str, record_type: type[T]) -> None:
        self.kind = kind
        self.name = name
        self.record_type = record_type
        self.aliases: tuple[str, ...] = ()
        self.later: frozenset[str] = frozenset()
        self.nested = False
        self.bus = ""
        self.description = ""
        self.entries = entries_of(record_type, name if kind.is_device else None)

    # --- reading

    def from_text(self, text: str) -> T:
        """The record that QEMU's ``-netdev TEXT`` or ``-device TEXT`` describes."""
        with naming(f"-{self.kind.name} {text}"):
            return self.from_options(parse(text, self.kind.selector))

    def from_options(self, options: OptionList | JsonOptions) -> T:
        """The record of an argument that was taken apart already."""
        unknown = [key for key in options.keys() if key not in self.entries]  # noqa: SIM118
        unknown = [key for key in unknown if key != self.kind.selector]
        if unknown and self.kind.is_device:
            raise self._unknown(unknown[0], options)
        if self.nested and isinstance(options, OptionList):
            return self._from_nested(nest(options))
        read = _read_json if isinstance(options, JsonOptions) else _read_list
        shapes = {key: read(entry, options) for key, entry in self._given(options)}
        if unknown:
            raise self._unknown(unknown[0], options)
        return self._build(shapes)

    def _from_nested(self, values: dict[str, Any]) -> T:
        """The record of texts by dotted keys."""
        shapes = {
            key: entry.option.type.read(entry.where, values[key])
            for key, entry in self._given(values)
        }
        for key in values:
            if key not in self.entries and key != self.kind.selector:
                raise ConfigError(f"Parameter '{key}' is unexpected")
        return self._build(shapes)

    def from_kwargs(self, **values: Any) -> T:
        """The record of keyword arguments: option texts, or Python values of the right type.

        A dash of a key is an underscore here, and None says not given.
        """
        fields = {entry.field: key for key, entry in self.entries.items()}
        with naming(f"{self.kind.name} {self.name}"):
            given = {fields.get(name, name): value for name, value in values.items()}
            for key in given:
                if key not in self.entries:
                    raise self._unknown(key, None)
            given = {key: value for key, value in given.items() if value is not None}
            return self._build(
                {key: _read_python(entry, given[key]) for key, entry in self._given(given)}
            )

    def _given(self, keys: Any) -> Iterator[tuple[str, Entry]]:
        """The options that were given, in the table's order; one that has to be, must."""
        for key, entry in self.entries.items():
            if key in keys:
                yield key, entry
            elif entry.option.required:
                raise ConfigError(f"Parameter '{key}' is missing")

    def _build(self, shapes: dict[str, Any]) -> T:
        values = {}
        for key, shape in shapes.items():
            entry = self.entries[key]
            make = entry.option.type.make
            values[entry.field] = (
                [make(entry.where, one) for one in shape]
                if entry.option.repeated
                else make(entry.where, shape)
            )
        return self.record_type(**values)

    def _unknown(self, key: str, options: OptionList | JsonOptions | None) -> ConfigError:
        if key in self.later:
            return NotServedError(f"'{key}' of {self.name} is not served by vmwire yet")
        if self.kind.is_device:
            return ConfigError(f"Property '{self.name}.{key}' not found")
        if isinstance(options, JsonOptions):
            return ConfigError(f"Parameter '{key}' is unexpected")
        return ConfigError(f"Invalid parameter '{key}'")

    # --- writing

    def to_options(self, record: T, *, for_qemu: bool = False) -> OptionList:
        """The items that make this record; options with their default value are left out.

        ``for_qemu`` leaves out vmwire's own options as well.
        """
        options = OptionList([Item.implied(self.kind.selector, self.name)])
        for key, entry in self.entries.items():
            value = getattr(record, entry.field)
            if value == entry.default or (for_qemu and entry.option.ours):
                continue
            for one in value if entry.option.repeated else [value]:
                for name, text in entry.option.type.items(key, one):
                    options.add(name, text)
        return options

    def to_text(self, record: T) -> str:
        """The record as one option text; `from_text` reads it back."""
        return str(self.to_options(record))

    # --- help

    def help_text(self) -> str:
        """What ``NAME,help`` prints, in QEMU's layout."""
        shown = {k: entry for k, entry in self.entries.items() if not entry.option.hidden}
        keys = sorted(shown) if self.kind.is_device else list(shown)
        lines = [line for key in keys for line in help_lines(key, shown[key])]
        return "\n".join([f"{self.name} options:", *lines])

    def list_line(self) -> str:
        """The type's line in ``help``."""
        if not self.kind.is_device:
            return self.name
        alias = "".join(f', alias "{alias}"' for alias in self.aliases)
        about = f', desc "{self.description}"' if self.description else ""
        return f'name "{self.name}", bus {self.bus}{alias}{about}'


def _read_list(entry: Entry, options: Any) -> Any:
    read = entry.option.type.read
    texts = options.get_all(entry.where.key)
    if entry.option.repeated:
        return [read(entry.where, text) for text in texts]
    # Of several values QEMU takes the last, but of several ids the first.
    return read(entry.where, texts[0] if entry.where.key == "id" else texts[-1])


def _read_json(entry: Entry, options: Any) -> Any:
    read = entry.option.type.read_json
    value = options.get(entry.where.key)
    if not entry.option.repeated:
        return read(entry.where, value)
    if not isinstance(value, list):
        raise ConfigError(f"Invalid parameter type for '{entry.where.key}', expected: array")
    return [
        read(
            Where(f"{entry.where.key}[{index}].str"), _only_str(f"{entry.where.key}[{index}]", one)
        )
        for index, one in enumerate(value)
    ]


def _only_str(path: str, value: Any) -> Any:
    """The member of a ``{"str": ...}``, which is how QEMU's JSON spells a list of strings."""
    if not isinstance(value, dict):
        raise ConfigError(f"Invalid parameter type for '{path}', expected: object")
    if "str" not in value:
        raise ConfigError(f"Parameter '{path}.str' is missing")
    for member in value:
        if member != "str":
            raise ConfigError(f"Parameter '{path}.{member}' is unexpected")
    return value["str"]


def _read_python(entry: Entry, value: Any) -> Any:
    read = entry.option.type.read_python
    if entry.option.repeated:
        several = value if isinstance(value, list | tuple) else [value]
        return [read(entry.where, one) for one in several]
    return read(entry.where, value)


def help_lines(key: str, entry: Entry) -> list[str]:
    """An option's lines in help; an object's members have one each."""
    members = entry.option.type.members()
    if not members:
        return [_help_line(key, entry)]
    lines = [help_lines(f"{key}.{name}", member) for name, member in members]
    return [line for one in lines for line in one]


def _help_line(key: str, entry: Entry) -> str:
    type = entry.option.type
    start = f"  {key}=<{type.name}>"
    words = entry.option.help or type.syntax
    default = entry.default
    if entry.option.repeated or default is None:
        return f"{start:<{_HELP_COLUMN}} - {words}" if words else start
    return f"{start:<{_HELP_COLUMN}} - {words} (default: {type.show(default)})"


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Let an error that leaves say to which option it belongs."""
    try:
        yield
    except ConfigError as error:
        error.option = error.option or option
        raise


# --- the registry -----------------------------------------------------------------------------

_tables: dict[str, dict[str, Table[Any]]] = {kind: {} for kind in KINDS}
_aliases: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
_later: dict[str, set[str]] = {kind: set() for kind in KINDS}
_elsewhere: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}


def record(
    kind: str,
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    later: tuple[str, ...] = (),
    nested: bool = False,
    bus: str = "",
    description: str = "",
) -> Callable[[type[T]], type[T]]:
    """Register the dataclass below as the options of ``name``.

    ``aliases`` are other names of the same type, ``later`` the keys of QEMU's that vmwire doesn't
    serve yet, ``bus`` what a device plugs into, ``description`` what the list of devices says.
    ``nested``: dotted keys are members of objects, which QEMU reads by rules of their own.
    """

    def register(record_type: type[T]) -> type[T]:
        table = Table(KINDS[kind], name, record_type)
        table.aliases, table.later = aliases, frozenset(later)
        table.bus, table.description, table.nested = bus, description, nested
        if name in _tables[kind] or not table.later.isdisjoint(table.entries):
            raise ValueError(f"{kind} {name} is declared twice")
        _tables[kind][name] = table
        _aliases[kind].update(dict.fromkeys(aliases, name))
        return record_type

    return register


def types_of_later(kind: str, *names: str) -> None:
    """Declare QEMU's types of a kind that vmwire doesn't serve yet."""
    _later[kind].update(names)


def types_elsewhere(kind: str, why: Mapping[str, str]) -> None:
    """Declare QEMU's types of a kind that have no place in vmwire, with what to do instead."""
    _elsewhere[kind].update(why)


def table_of(record_type: type[T]) -> Table[T]:
    """The table of a record's class."""
    for tables in _tables.values():
        for table in tables.values():
            if table.record_type is record_type:
                return table
    raise KeyError(record_type)


def table_under(base: type[Any], name: str) -> Table[Any]:
    """The table of the type ``name`` whose record is a ``base``, else the one of ``base``."""
    for tables in _tables.values():
        found = tables.get(name)
        if found is not None and issubclass(found.record_type, base):
            return found
    return table_of(base)


def tables(kind: str) -> list[Table[Any]]:
    """The types of a kind that are served, in the order of their declaration."""
    return list(_tables[kind].values())


def find(kind: str, name: str) -> Table[Any]:
    """The type of that name or alias; `ConfigError` if there is none."""
    table = _tables[kind].get(_aliases[kind].get(name, name))
    if table is not None:
        return table
    if name in _elsewhere[kind]:
        raise NotServedError(f"{kind} '{name}' {_elsewhere[kind][name]}")
    if name in _later[kind]:
        raise NotServedError(f"{kind} '{name}' is not served by vmwire yet")
    if KINDS[kind].is_device:
        raise ConfigError(f"'{name}' is not a valid device model name")
    raise ConfigError(f"Parameter '{KINDS[kind].selector}' does not accept value '{name}'")


def select(kind: str, options: OptionList | JsonOptions) -> Table[Any]:
    """The type that an argument asks for, and its id's rule, which QEMU checks before that."""
    selector = KINDS[kind].selector
    name = options.get(selector)
    if KINDS[kind].is_device:
        if not isinstance(name, str):
            raise ConfigError(f"Parameter '{selector}' is missing")
    elif options.first("id") is None:
        raise ConfigError("Parameter 'id' is missing")
    elif name is None:
        raise ConfigError(f"Parameter '{selector}' is missing")
    elif not isinstance(name, str):
        raise ConfigError(f"Invalid parameter type for '{selector}', expected: string")
    return find(kind, name)
