# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A loop in a thread of its own, and what ended it."""

from __future__ import annotations

import threading

from vmwire.engine.loop import Loop


class LoopThread:
    """Runs ``loop``, once or again."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._ended = threading.Event()

    @property
    def started(self) -> bool:
        """Whether the loop has a thread, which may have ended by itself."""
        return self._thread is not None

    def start(self) -> None:
        """Run the loop; returns when it does."""
        self._ended.clear()
        running = threading.Event()
        self._loop.post(running.set)
        self._thread = threading.Thread(target=self._run, name="vmwire-engine", daemon=True)
        self._thread.start()
        running.wait()

    def _run(self) -> None:
        try:
            self._loop.run()
        except BaseException as error:  # kept for wait(), which raises it in the caller's thread
            self._failure = error
        finally:
            self._ended.set()

    def end(self) -> None:
        """Have the loop stand still, if it runs."""
        if self._thread is not None:
            self._loop.stop()
            self._thread.join()
            self._thread = None

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the loop's end; False if it still runs. Raises what ended it, if anything."""
        ended = self._ended.wait(timeout_s)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return ended
