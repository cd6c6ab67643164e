# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The one error that a person caused and a person can mend."""

from __future__ import annotations


class ConfigError(Exception):
    """A configuration that can't be had, in one line for the person who wrote it.

    ``message`` says what is wrong and what would be right; ``option`` is the option as it was
    typed (``-netdev user,id=u,net=abc``), when it is known, and is printed in front, as QEMU does.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.option = option

    def __str__(self) -> str:
        return f"{self.option}: {self.message}" if self.option else self.message


class NotThereError(ConfigError):
    """It names a device that there isn't, or an object."""
