# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""How a request is refused."""

from __future__ import annotations

import errno
import os


class Refused(Exception):
    """A request that can't be done: the peer is told ``errno``, the log gets ``reason``."""

    def __init__(self, reason: str, number: int = errno.EINVAL) -> None:
        super().__init__(f"{reason} ({os.strerror(number)})")
        self.errno = number
