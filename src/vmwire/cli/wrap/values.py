# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Plain strings out of either form of an option's argument.

``-netdev`` and ``-device`` come as ``key=value,...`` from people and as JSON from libvirt. Here
both become one dictionary of strings, with a list where a key was given several times.
"""

from __future__ import annotations

from typing import Any

from vmwire.options.syntax import JsonOptions, OptionList

Values = dict[str, str | list[str]]

ON = frozenset(("on", "yes", "true", "y"))
OFF = frozenset(("off", "no", "false", "n"))


def plain(options: OptionList | JsonOptions) -> Values:
    """Every key with its value, or its values in order.

    QEMU's lists of strings are lists of ``{"str": ...}`` objects in JSON; a nested object gets
    dotted keys, as it has on a command line.
    """
    values: Values = {}
    if isinstance(options, OptionList):
        for key in dict.fromkeys(item.key for item in options):
            several = options.get_all(key)
            values[key] = several if len(several) > 1 else several[0]
        return values
    for key, value in options.members.items():
        _add_json(values, key, value)
    return values


def _add_json(values: Values, key: str, value: Any) -> None:
    if isinstance(value, dict):
        for inner, member in value.items():
            _add_json(values, f"{key}.{inner}", member)
    elif isinstance(value, list):
        items = [item.get("str") if isinstance(item, dict) else item for item in value]
        values[key] = [_json_text(item) for item in items]
    else:
        values[key] = _json_text(value)


def _json_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def text(values: Values, key: str) -> str | None:
    """The last value of a key: what QEMU takes where it wants one."""
    several = every(values, key)
    return several[-1] if several else None


def every(values: Values, key: str) -> list[str]:
    """All values of a key."""
    value = values.get(key, [])
    return value if isinstance(value, list) else [value]
