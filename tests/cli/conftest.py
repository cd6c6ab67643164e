# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands' tests share with those of the processes behind them."""

from __future__ import annotations

from tests.daemon.conftest import runtime

__all__ = ["runtime"]
