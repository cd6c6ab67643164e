# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The scripts that put a tap on the host's network and take it off again.

A script is run with the interface's name as its one argument. What follows waits until it has
ended, but not for ever. What it writes to standard error goes to the log, and its last line into
the message when it fails.

The one for the end is owed whatever ends us. A *farewell* is a waiting shell that holds the tap and
the reading end of a pipe, whose other end is here and in the fd store. When it is told that the
script has run, it leaves; when the pipe ends without a word, nobody is left to run it, and the
shell does.
"""

from __future__ import annotations

import logging
import os
import subprocess
from contextlib import suppress

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import programs

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""How long a script may take."""

_WAIT = 'read -r said || exec "$0" "$1" </dev/null >/dev/null 2>&1'


def run(path: str, interface: str) -> None:
    """Run ``path`` for ``interface``. Raises ``ConfigError`` if it can't be run, fails or hangs."""
    try:
        status, said = programs.run([path, interface], patience_s=PATIENCE_S)
    except TimeoutError:
        raise ConfigError(
            f"network script {path} did not end within {PATIENCE_S:g} s and was killed"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"network script {path} can't be run: {error.strerror} (script=no runs none)"
        ) from None
    if status:
        how = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
        end = f": {said[-1]}" if said else ""
        raise ConfigError(f"network script {path} {how}{end}")
    for line in said:
        log.info("%s %s: %s", path, interface, line)


class Farewell:
    """Owes ``script`` to the interface ``interface`` of the netdev ``id``, until ``say``.

    ``tap`` is a descriptor of the interface, which lives as long as it is owed.
    """

    def __init__(self, host: Host, id: str, script: str, interface: str, tap: int) -> None:
        self._host = host
        self._name = f"{id} farewell"
        self._script = script
        self._interface = interface
        self._process: subprocess.Popen[bytes] | None = None
        kept = host.store.take(self._name)
        self._pipe = self._begin(tap) if kept is None else kept

    def _begin(self, tap: int) -> int:
        waits, ours = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WAIT, self._script, self._interface],
                stdin=waits,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[tap],
                start_new_session=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(waits)
        self._host.store.keep(self._name, ours)
        return ours

    def say(self) -> None:
        """Run the script now."""
        try:
            run(self._script, self._interface)
        except ConfigError as error:
            log.warning("%s", error)
        with suppress(BrokenPipeError):
            os.write(self._pipe, b"said\n")
        os.close(self._pipe)
        self._host.store.drop(self._name)
        if self._process is not None:
            self._process.wait()
