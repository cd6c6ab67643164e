# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""vmwire's tests: the folders mirror `src/vmwire`; `guest/` boots real guests, `peers/` runs
real peer programs (docs/testing.md)."""
