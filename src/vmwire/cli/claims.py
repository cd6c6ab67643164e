# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Options for a process of its own: what they take from the caller goes there with them.

A record that has descriptors or paths says by ``claim`` how it reads there.
"""

from __future__ import annotations

from typing import Any

from vmwire.options.table import table_of


def claimed(record: Any) -> tuple[Any, dict[str, int]]:
    """The options there, and the caller's descriptors by their names in the fd store."""
    claim = getattr(record, "claim", None)
    return (record, {}) if claim is None else claim()


def claimed_text(record: Any) -> tuple[str, dict[str, int]]:
    """The same as a text."""
    there, fds = claimed(record)
    return table_of(type(there)).to_text(there), fds
