"""TCP ports of this machine, and how its own processes reach each other."""

from __future__ import annotations

import random
import socket

from serving.errors import ConfigurationError, Unavailable

LOOPBACK = "127.0.0.1"
#: What URLs call it.
LOOPBACK_NAMES = frozenset({LOOPBACK, "localhost", "::1"})
#: Below those that kernels give to whoever asks for any (Linux: from 32768, macOS: from 49152), above those of Ray's
#: workers (to 19999): nobody gets one of these by chance before it is bound.
_FREE = range(20_000, 30_000)


def usable_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0. Raises ConfigurationError where a server could not listen there, and
    Unavailable if none is free."""
    try:
        _bind(host, port)
    except OSError as error:
        raise ConfigurationError(
            f"{host}:{port} cannot be used ({error.strerror}): choose another with --port, or --port 0 for a free one"
        ) from error
    return port or free_port(host)


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    try:
        _bind(host, port)
    except OSError:
        return False
    return True


def free_port(host: str = LOOPBACK) -> int:
    """One that nobody listens on now. Raises Unavailable if there is none."""
    free = (port for port in random.sample(_FREE, len(_FREE)) if is_free(host, port))
    found = next(free, None)
    if found is None:
        raise Unavailable(f"No TCP port of {_FREE.start} to {_FREE.stop - 1} is free on {host}.")
    return found


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
