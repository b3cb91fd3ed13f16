"""What can go wrong with a request, as one of `record.KINDS`, and what the network's own errors are among these."""

from __future__ import annotations

import errno
import socket
import ssl

from loadtest.record import ErrorKind

_MESSAGE_CHARACTERS = 200


class Failure(Exception):
    """A request that got no whole answer. `kind` is of `record.KINDS`; the message is short, and for people."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(shortened(message))
        self.kind = kind


class Broken(Failure):
    """Bytes that are no HTTP, no server-sent events or no JSON of an answer."""

    def __init__(self, message: str) -> None:
        super().__init__("broken_stream", message)


class Overdue(Failure):
    """Its user has given up."""

    def __init__(self) -> None:
        super().__init__("timeout", "it took longer than allowed in all")


def shortened(message: str) -> str:
    """One line of at most 200 characters."""
    line = " ".join(message.split())
    return line if len(line) <= _MESSAGE_CHARACTERS else f"{line[: _MESSAGE_CHARACTERS - 1]}…"


def of_connecting(error: OSError | UnicodeError, secured: bool) -> Failure:
    """Of an error before the request was sent. `secured`: TCP was there, TLS was not yet."""
    said = _said(error)
    if secured or isinstance(error, ssl.SSLError):
        return Failure("tls", said)
    if isinstance(error, TimeoutError):
        return Failure("connect_timeout", said)
    if isinstance(error, ConnectionRefusedError):
        return Failure("refused", said)
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        return Failure("reset", said)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Failure("unreachable", f"{said}; it is this client that may open no more: raise `ulimit -n`")
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        return Failure("unreachable", f"{said}; this client has no port left: use more workers, on other machines")
    return Failure("unreachable", said)


def of_transfer(error: OSError) -> Failure:
    """Of an error after the request was on its way."""
    return Failure("reset", _said(error))


def _said(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror):
        return f"no such host: {error.strerror or error}"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return str(error) or type(error).__name__
