# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""vhost-user: the machine's virtio ring lives in memory that it shares with us."""

from vmwire.attach.vhost_user.server import VhostUserNic

__all__ = ["VhostUserNic"]
