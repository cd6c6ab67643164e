# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m vmwire`: the vmwire command."""

from __future__ import annotations

import sys

from vmwire.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
