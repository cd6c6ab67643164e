# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``filter-dump``: what passes is written to a pcap file, as QEMU writes it.

The file has microseconds and this machine's byte order, whose frames are cut to ``maxlen``; the
rest is as in ``vmwire.wire.capture``. It belongs to its owner alone, since it holds other people's
traffic (QEMU lets all users read it). A file that can't be written any more (a full disk) ends the
dump with one line in the log, and the traffic goes on.
"""

from __future__ import annotations

import os
import time
from typing import Any, BinaryIO

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.filters.options import DumpOptions
from vmwire.filters.selective import MakeLine, Selective
from vmwire.wire.capture import MICROSECONDS, Capture
from vmwire.wire.port import Port


class DumpFilter(Selective, Capture):
    """The box."""

    OPTIONS = DumpOptions
    CHANGEABLE = (*Selective.CHANGEABLE, "maxlen")

    def __init__(self, options: DumpOptions, host: Host, make_line: MakeLine) -> None:
        self.options: DumpOptions = options
        further = host.store.on_trial
        super().__init__(
            options.id,
            open_private(options.file, further),
            time.time_ns,
            host.loop.call_later,
            options.maxlen,
            further,
            MICROSECONDS,
        )
        self._most = options.maxlen
        """What the file's header says: no record may be longer."""

    def change(self, field: str, value: Any) -> None:
        super().change(field, value)
        self.snap_length = min(self.options.maxlen, self._most)

    def sees(self, out: Port) -> bool:
        return self.takes(out) and super().sees(out)


def path_of_worker(path: str, restarts: int) -> str:
    """Where this worker's capture goes: a later one must not write over what the first saw.

    >>> path_of_worker("/tmp/wire.pcap", 0), path_of_worker("/tmp/wire.pcap", 2)
    ('/tmp/wire.pcap', '/tmp/wire.restart2.pcap')
    """
    stem, extension = os.path.splitext(path)
    return f"{stem}.restart{restarts}{extension}" if restarts else path


def open_private(path: str | os.PathLike[str], further: bool) -> BinaryIO:
    """Open a file that holds other people's traffic, for its owner only: new or emptied, or to be
    written further; ``ConfigError``."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if further else os.O_TRUNC)
    try:
        return os.fdopen(os.open(path, flags, 0o600), "ab" if further else "wb")
    except OSError as error:
        raise ConfigError(f"Could not open '{os.fspath(path)}': {error.strerror}") from None
