# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The user-mode network: QEMU's addresses and options on the host kernel's sockets."""
