# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``--capture ID=FILE``, of prefix mode and of serve mode."""

from __future__ import annotations

import os

from vmwire.errors import ConfigError


def read(text: str) -> list[str]:
    """What a worker's config has for it: the id, and the file's whole path.

    >>> read("u=/tmp/traffic.pcap")
    ['u', '/tmp/traffic.pcap']
    """
    id, equals, path = text.partition("=")
    if not equals or not id or not path:
        raise ConfigError("expects ID=FILE, with the id of a netdev or a card", f"--capture {text}")
    return [id, os.path.abspath(path)]
