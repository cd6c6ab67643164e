# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tests.netdev.conftest import sockets

__all__ = ["sockets"]
