"""This machine as its own processes reach it."""

from __future__ import annotations

import random
import socket

from serving.errors import Unavailable

LOOPBACK = "127.0.0.1"
#: What URLs call it.
NAMES = frozenset({LOOPBACK, "localhost", "::1"})
#: Below those that kernels give to whoever asks for any (Linux: from 32768, macOS: from 49152), above those of Ray's
#: workers (to 19999): nobody gets one of these by chance before it is bound.
_PORTS = range(20_000, 30_000)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now. Raises Unavailable if there is none."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise Unavailable(f"No TCP port of {_PORTS.start} to {_PORTS.stop - 1} is free on {LOOPBACK}.")
