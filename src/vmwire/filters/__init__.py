# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters that a command line or a monitor puts before a netdev: ``-object filter-…``."""
