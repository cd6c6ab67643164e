# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""vfio-user: a whole PCI card is served to the machine, register by register."""
