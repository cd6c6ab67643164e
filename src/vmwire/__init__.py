# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""vmwire: QEMU/KVM's network layer outside the virtual machine."""

__version__ = "0.1.0"
