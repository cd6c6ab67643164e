# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The syntax of one QEMU option argument: text to items and back, without loss.

An argument such as ``user,id=u,hostfwd=tcp::5555-:22,restrict`` is a list of items between
commas; a comma inside a value is written twice. Three forms of item exist:

* ``key=value``;
* an *implied* value: the first item, when it has no ``=``, is the value of a key that the option
  defines (``-netdev`` -> ``type``, ``-device`` -> ``driver``, ``-m`` -> ``size``);
* a *flag*: any other item without ``=``. ``key`` says on, ``nokey`` says off. Keys know no
  escape, so ``a,,b`` after the first item is a flag, an empty flag, and a flag.

Since 6.0 several options take a JSON object instead when the argument starts with ``{``.

Nothing here knows which keys exist or what values mean: that is `table` and `values`. Both
readings keep the text that was typed and give it back unchanged until an item is changed, so a
command line can be rewritten in one place and stay as its author wrote it everywhere else.

>>> options = parse("user,id=u,hostname=a,,b", implied="type")
>>> options.get("type"), options.get("hostname")
('user', 'a,b')
>>> options.set("type", "vhost-user"); options.remove("hostname"); options.add("chardev", "c0")
>>> str(options)
'vhost-user,id=u,chardev=c0'
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vmwire.errors import ConfigError

HELP_WORDS = ("help", "?")


class Form(enum.Enum):
    """How an item was written."""

    KEYED = "key=value"
    IMPLIED = "value"
    FLAG = "key or nokey"


@dataclass(slots=True, frozen=True)
class Item:
    """One ``key=value`` of an option, and the text that stands for it."""

    key: str
    value: str
    text: str
    form: Form = Form.KEYED

    @classmethod
    def keyed(cls, key: str, value: str) -> Item:
        """A new ``key=value``, with the value's commas doubled."""
        if not key or "," in key or "=" in key:
            raise ValueError(f"not an option key: {key!r}")
        return cls(key, value, f"{key}={escape(value)}")

    @classmethod
    def implied(cls, key: str, value: str) -> Item:
        """A new first item that leaves its key out, where its value allows that."""
        if not value or "=" in value or value.startswith(","):
            return cls.keyed(key, value)
        return cls(key, value, escape(value), Form.IMPLIED)

    @classmethod
    def flag(cls, text: str) -> Item:
        """``key`` or ``nokey`` as typed."""
        if text.startswith("no"):
            return cls(text[2:], "off", text, Form.FLAG)
        return cls(text, "on", text, Form.FLAG)

    def with_value(self, value: str) -> Item:
        """The same key in the same form (a flag becomes ``key=value``) with another value."""
        if self.form is Form.IMPLIED:
            return Item.implied(self.key, value)
        return Item.keyed(self.key, value)


def escape(value: str) -> str:
    """A value as it is written between commas."""
    return value.replace(",", ",,")


class OptionList:
    """The items of one ``key=value,...`` argument, in order.

    A repeated key keeps all its items: `get` gives the last (what QEMU takes for a plain value),
    `first` the first (what it takes for ``id``), `get_all` the list.
    """

    def __init__(self, items: list[Item], trailing: str = "") -> None:
        self.items = items
        self._trailing = trailing  # QEMU ignores one comma at the very end

    def __str__(self) -> str:
        return ",".join(item.text for item in self.items) + self._trailing

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __contains__(self, key: str) -> bool:
        return any(item.key == key for item in self.items)

    def keys(self) -> list[str]:
        """The keys in order of their first appearance."""
        return list(dict.fromkeys(item.key for item in self.items))

    def get_all(self, key: str) -> list[str]:
        return [item.value for item in self.items if item.key == key]

    def get(self, key: str, default: str | None = None) -> str | None:
        values = self.get_all(key)
        return values[-1] if values else default

    def first(self, key: str, default: str | None = None) -> str | None:
        values = self.get_all(key)
        return values[0] if values else default

    def set(self, key: str, value: str) -> None:
        """Give ``key`` this one value, at the place where it first stood, else at the end."""
        for index, item in enumerate(self.items):
            if item.key == key:
                rest = [other for other in self.items[index + 1 :] if other.key != key]
                self.items[index:] = [item.with_value(value), *rest]
                return
        self.add(key, value)

    def add(self, key: str, value: str) -> None:
        """Append ``key=value`` and leave what there is."""
        self.items.append(Item.keyed(key, value))
        self._trailing = ""

    def remove(self, key: str) -> None:
        """Take every item of ``key`` away (nothing happens if there is none)."""
        was_first = self.items[:1]
        self.items = [item for item in self.items if item.key != key]
        if not self.items:
            self._trailing = ""
        elif self.items[:1] != was_first and self.items[0].form is Form.FLAG and self.items[0].key:
            # In the first place a bare word would be read as the implied key's value.
            self.items[0] = Item.keyed(self.items[0].key, self.items[0].value)

    @property
    def wants_help(self) -> bool:
        """Whether ``help`` or ``?`` stands where QEMU answers with help (``NAME,help``)."""
        return any(
            (item.form is Form.FLAG and item.text in HELP_WORDS)
            or (item.form is Form.IMPLIED and item.value in HELP_WORDS)
            for item in self.items
        )


class JsonOptions:
    """The same verbs for an argument that is a JSON object. Values are JSON values."""

    def __init__(self, members: dict[str, Any], text: str) -> None:
        self.members = members
        self._text: str | None = text

    def __str__(self) -> str:
        if self._text is None:
            self._text = json.dumps(self.members, separators=(",", ":"), ensure_ascii=False)
        return self._text

    def __contains__(self, key: str) -> bool:
        return key in self.members

    def keys(self) -> list[str]:
        return list(self.members)

    def get(self, key: str, default: Any = None) -> Any:
        return self.members.get(key, default)

    first = get  # a key occurs once in JSON

    def set(self, key: str, value: Any) -> None:
        self.members[key] = value
        self._text = None

    add = set

    def remove(self, key: str) -> None:
        if self.members.pop(key, None) is not None:
            self._text = None

    wants_help = False  # QEMU answers no help to JSON


def parse(text: str, implied: str | None = None) -> OptionList | JsonOptions:
    """Read an argument in either form, as QEMU chooses: JSON starts with a brace."""
    return parse_json(text) if text.startswith("{") else parse_list(text, implied)


def parse_list(text: str, implied: str | None = None) -> OptionList:
    """Read ``key=value,...``; ``implied`` is the key that the first item may leave out.

    Every text can be read, and ``str`` of the result is that text.
    """
    items: list[Item] = []
    at = 0
    while at < len(text):
        item = _read_item(text, at, implied if at == 0 else None)
        items.append(item)
        at += len(item.text) + 1
    return OptionList(items, "," if items and at == len(text) else "")


def _read_item(text: str, at: int, implied: str | None) -> Item:
    comma = text.find(",", at)
    key_end = len(text) if comma < 0 else comma
    equals = text.find("=", at, key_end)
    if equals >= 0:
        end = _value_end(text, equals + 1)
        return Item(text[at:equals], _unescape(text[equals + 1 : end]), text[at:end])
    if implied is not None:
        end = _value_end(text, at)
        return Item(implied, _unescape(text[at:end]), text[at:end], Form.IMPLIED)
    return Item.flag(text[at:key_end])


def _value_end(text: str, at: int) -> int:
    """Where the value that starts here ends: at the first comma that is not doubled."""
    while (comma := text.find(",", at)) >= 0:
        if text[comma + 1 : comma + 2] != ",":
            return comma
        at = comma + 2
    return len(text)


def _unescape(text: str) -> str:
    return text.replace(",,", ",")


# --- JSON -------------------------------------------------------------------------------------

# QEMU's reader takes 'single quoted' strings too.
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', re.DOTALL)


def parse_json(text: str) -> JsonOptions:
    """Read a JSON object; a fault is told with line and column, as QEMU 11 does."""
    try:
        members = json.loads(
            _STRINGS.sub(_double_quoted, text),
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        raise ConfigError(_json_fault(error)) from None
    except (ValueError, RecursionError) as error:  # ours, a number of 5000 digits, 1000 brackets
        raise ConfigError(f"JSON parse error, {error}") from None
    if not isinstance(members, dict):
        raise ConfigError("JSON parse error, expecting an object")
    return JsonOptions(members, text)


class _BadJsonError(ValueError):
    """Something that Python's reader takes and QEMU's does not."""


def _double_quoted(match: re.Match[str]) -> str:
    string = match.group()
    if string[0] == '"':
        return string
    # Same length on both sides keeps the columns of later faults right, except for the rare
    # double quote inside.
    return '"' + string[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _BadJsonError("duplicate key")
    return members


def _no_constant(name: str) -> Any:
    raise _BadJsonError(f"invalid keyword '{name}'")


def _json_fault(error: json.JSONDecodeError) -> str:
    where = f"{error.lineno}:{error.colno}"
    if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
        return f"{where}: JSON parse error, premature end of input"
    if "property name" in error.msg:
        return f"{where}: JSON parse error, expecting key"
    return f"{where}: JSON parse error, {error.msg[:1].lower()}{error.msg[1:]}"


# --- dotted keys ------------------------------------------------------------------------------


def nest(options: OptionList) -> dict[str, Any]:
    """What dotted keys mean where QEMU reads them (``-object``, ``-machine``, stream netdevs).

    ``addr.type=inet`` is a member of an object, ``host-nodes.0=1`` an element of a list (indices
    must run from 0 without a gap). Of a repeated key the last wins.

    >>> nest(parse_list("stream,addr.type=inet,addr.port=1", "type"))
    {'type': 'stream', 'addr': {'type': 'inet', 'port': '1'}}
    """
    root: dict[str, Any] = {}
    for item in options:
        *path, leaf = item.key.split(".")
        node = root
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"Parameters '{item.key}' and '{part}' used inconsistently")
        if isinstance(node.get(leaf), dict):
            raise ConfigError(f"Parameters '{item.key}' and '{item.key}.*' used inconsistently")
        node[leaf] = item.value
    return {key: _lists(value, key) for key, value in root.items()}


def _lists(node: Any, path: str) -> Any:
    if not isinstance(node, dict):
        return node
    values = {key: _lists(value, f"{path}.{key}") for key, value in node.items()}
    if not all(key.isascii() and key.isdecimal() for key in values):
        return values
    missing = next((i for i in range(len(values)) if str(i) not in values), None)
    if missing is not None:
        raise ConfigError(f"Parameter '{path}.{missing}' is missing")
    return [values[str(index)] for index in range(len(values))]
