# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Measurements against peers (pairs) and of parts; docs/benchmarks.md has what came out."""
