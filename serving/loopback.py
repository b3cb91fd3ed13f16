"""This machine as its own processes reach it."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"
#: What URLs call it.
NAMES = frozenset({LOOPBACK, "localhost", "::1"})


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
