"""Connections to a target, over gevent: opened, kept and closed.

Proxies of the environment are not used and redirects are not followed: what is measured is the server that was named.
"""

from __future__ import annotations

import ipaddress
import sys
from contextlib import suppress
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
from gevent.monkey import get_original

from loadtest.failures import Failure, Overdue, of_connecting
from loadtest.reply import Reply
from loadtest.target import Target
from loadtest.transfer import SO_TIMESTAMPNS, Clock, Transfer

#: A connection may be closed while a request is on its way to it: that is heard of within a round trip, wherever the
#: server is. What breaks later broke over the request.
_RACE_S = 0.5
#: Somebody ended the greenlet that waits.
Killed = gevent.GreenletExit
_POLLIN = 1


class Connections:
    """To one target: as many as there are requests at a time, each kept for the next request."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: list[Any] = []
        self._tls = _tls() if target.scheme == "https" else None

    def send(self, request: bytes, reply: Reply, clock: Clock, until: float) -> None:
        """Sends it and has `reply` read what comes, at most `until` on the clock. Raises Failure.

        A connection that was kept may have been closed by the server meanwhile, before it saw the request: if that is
        so at once, without a byte of a response, the request is sent once more, on a new one (RFC 9110, 9.2.2).
        """
        kept = self._kept()
        if kept is not None:
            transfer, sent = Transfer(kept, request, reply, clock), clock()
            try:
                self._run(kept, transfer, until)
                return
            except Failure as failure:
                if transfer.received or failure.kind not in ("reset", "cut") or clock() - sent > _RACE_S:
                    raise
        fresh = self._connected(until - clock())
        self._run(fresh, Transfer(fresh, request, reply, clock), until)

    def close(self) -> None:
        """Closes those that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def _run(self, connection: Any, transfer: Transfer, until: float) -> None:
        """Raises Failure."""
        try:
            transfer.run(self._target.limits.stall_s, until)
        finally:
            # A kill (GreenletExit) comes through here, too.
            if transfer.reusable:
                self._idle.append(connection)
            else:
                connection.close()

    def _kept(self) -> Any | None:
        """The one that was used last, of those that are still good."""
        while self._idle:
            connection = self._idle.pop()
            if _is_silent(connection):
                return connection
            connection.close()
        return None

    def _connected(self, left_s: float) -> Any:
        """A new one. Raises Failure."""
        if left_s <= 0:
            raise Overdue
        allowed = min(self._target.limits.connect_s, left_s)
        limit = gevent.Timeout(allowed)
        try:
            with limit:
                return self._opened(allowed)
        except gevent.Timeout as error:
            if error is not limit:
                raise
            raise Failure("connect_timeout", f"no connection within {allowed:.3g} s") from None

    def _opened(self, allowed: float) -> Any:
        """To the first address that answers; one that does not answer leaves the others their time."""
        failure = Failure("unreachable", "the host has no address")
        try:
            addresses = _addresses(self._target.host, self._target.port)
        except (OSError, UnicodeError) as error:
            raise of_connecting(error, secured=False) from error
        for place, (family, address) in enumerate(addresses):
            try:
                return self._opened_at(family, address, allowed / (len(addresses) - place))
            except Failure as error:
                failure = error
        raise failure

    def _opened_at(self, family: int, address: Any, allowed: float) -> Any:
        connection: Any = None
        secured = False
        try:
            connection = gevent.socket.socket(family, gevent.socket.SOCK_STREAM)
            connection.settimeout(allowed)
            connection.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
            connection.connect(address)
            if self._tls is not None:
                secured = True
                connection = self._tls.wrap_socket(
                    connection, server_hostname=self._target.host, do_handshake_on_connect=False
                )
                connection.do_handshake()
            connection.settimeout(0.0)
            return connection if secured else _stamped(connection)
        except BaseException as error:  # a kill and the timeout as well: nobody else knows this socket
            if connection is not None:
                connection.close()
            if isinstance(error, OSError | UnicodeError):
                raise of_connecting(error, secured=secured) from error
            raise


def pause(seconds: float) -> None:
    """Others run meanwhile."""
    gevent.sleep(seconds)


def _stamped(connection: Any) -> Any:
    """The same connection, as a socket that never waits: the standard library's own, before anybody patched it."""
    plain = get_original("socket", "socket")(fileno=connection.detach())
    plain.setblocking(False)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel that has no stamps
            plain.setsockopt(gevent.socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return plain


def _tls() -> Any:
    """The system's authorities; OpenSSL's SSL_CERT_FILE names others."""
    context = gevent.ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """A number is its own address; names are looked up each time, as servers behind them come and go."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        found = gevent.socket.getaddrinfo(host, port, 0, gevent.socket.SOCK_STREAM)
        return [(family, address) for family, *_, address in found]
    return [(gevent.socket.AF_INET6 if version == 6 else gevent.socket.AF_INET, (host, port))]


def _is_silent(connection: Any) -> bool:
    """Nothing to read: what is closed has its end to read, and nothing else should come while nobody asked."""
    poll = get_original("select", "poll")()
    poll.register(connection.fileno(), _POLLIN)
    return not poll.poll(0)
