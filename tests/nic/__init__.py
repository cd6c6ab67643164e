# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Real guests: what they need (provision), how one is driven (machine), what it downloads (peer),
and the scenarios themselves. Benchmarks use the same harness."""
