# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""An fd store in the test's own process."""

from __future__ import annotations

import os


class Store:
    """Lives as long as the test, and longer than each of its workers."""

    def __init__(self) -> None:
        self.on_trial = False
        self.kept: dict[str, int] = {}

    def take(self, name: str) -> int | None:
        return os.dup(self.kept[name]) if name in self.kept else None

    def keep(self, name: str, fd: int) -> None:
        copy = os.dup(fd)
        self.drop(name)
        self.kept[name] = copy

    def drop(self, name: str) -> None:
        if name in self.kept:
            os.close(self.kept.pop(name))
