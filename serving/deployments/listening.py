"""The port that an Api listens on itself, where no proxy of Serve is before it. ray.serve"""

from __future__ import annotations

import socket
from typing import Any


def _reuse_address(listening: socket.socket) -> bool:
    """Not SO_REUSEPORT, as Ray's own: with that, a second server would share the port instead of being refused it."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return True


def reuse_port() -> None:
    """From now on a replica of this process may listen where the connections of one that has ended still close.

    That takes a minute (TIME-WAIT, RFC 9293, 3.6.1), and Ray 2.60 binds a replica's port without SO_REUSEADDR
    (`_maybe_start_direct_ingress_servers` in `serve/_private/replica.py`): a server that was started again, or whose
    Api had died, was refused its port, and Serve never tries such a port again. Its proxies have the option.
    """
    from ray.serve._private import http_util, replica

    start = replica.start_asgi_http_server
    http_util.set_socket_reuse_port = _reuse_address

    async def start_reusing(*given: Any, **options: Any) -> Any:
        return await start(*given, **{**options, "enable_so_reuseport": True})

    replica.start_asgi_http_server = start_reusing
