# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The few Linux calls about namespaces and mounts that Python (3.11) doesn't have, by libc's names.

See unshare(2), setns(2), mount(2). Each raises OSError, with what was being done as its file name.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, what: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Move this process (one thread, for a user namespace) into new namespaces."""
    _call("unshare", "unshare", ctypes.c_int(flags))


def setns(fd: int, kind: int) -> None:
    """Move this thread into the namespace behind ``fd``."""
    _call("setns", "setns", ctypes.c_int(fd), ctypes.c_int(kind))


def mount(
    source: str, target: str, fstype: str | None, flags: int, data: str | None = None
) -> None:
    """Mount ``source`` at ``target``."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, fstype, data)]
    _call("mount", target, *texts[:3], ctypes.c_ulong(flags), texts[3])


def unmount(target: str) -> None:
    """Take a mount out of sight; it goes when nobody uses it any more."""
    _call("umount2", target, os.fsencode(target), ctypes.c_int(MNT_DETACH))
