# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The one exception that a parser of this package raises."""


class ParseError(ValueError):
    """The bytes are not a well-formed message of the protocol: count it, drop it."""
