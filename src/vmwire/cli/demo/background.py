# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Waiting for one thing while showing another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Something that runs beside us; ``result`` waits for it, and raises what it raised."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._found: list[T] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:  # kept for result(), which raises it
            self._failure = error

    def running(self, wait_s: float = 0.0) -> bool:
        """Whether it still runs, after waiting at most so long for its end."""
        self._thread.join(wait_s)
        return self._thread.is_alive()

    def result(self) -> T:
        """What it gave."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._found[0]
