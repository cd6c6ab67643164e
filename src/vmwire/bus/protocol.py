# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What vhost-user and vfio-user share: how a connection breaks."""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer broke the protocol in a way that the connection doesn't survive."""
