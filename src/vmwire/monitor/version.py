# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The version that the monitor gives: QEMU's whose behaviour it follows, and our own name."""

from __future__ import annotations

from typing import TypedDict

from vmwire import __version__


class VersionTriple(TypedDict):
    """Three numbers."""

    major: int
    minor: int
    micro: int


class VersionInfo(TypedDict):
    """``package`` is free text that tells who answers."""

    qemu: VersionTriple
    package: str


VERSION: VersionInfo = {
    "qemu": {"micro": 0, "minor": 1, "major": 11},
    "package": f"vmwire {__version__}",
}
