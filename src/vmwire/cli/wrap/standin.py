# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Standing in for QEMU under the name of a link, as libvirt's ``<emulator>``.

A link called ``vmwire-qemu-system-x86_64`` means the program ``qemu-system-x86_64``: the one that
``VMWIRE_QEMU`` names, else the first in PATH that isn't vmwire again.
"""

from __future__ import annotations

import os

VARIABLE = "VMWIRE_QEMU"


def real_program(name: str, link: str) -> str:
    """The path of the program that the link ``vmwire-NAME`` stands for."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    ourselves = _target(link)
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder or ".", name)
        if os.path.isfile(path) and os.access(path, os.X_OK) and _target(path) != ourselves:
            return path
    return name  # executing it says that it isn't there


def _target(path: str) -> str:
    return os.path.realpath(path)
