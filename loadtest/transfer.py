"""One request and its response on a connection: sent, timed and framed. The only user of geventhttpclient's parser.

The moment of arrival is the kernel's, where it says when the bytes reached this machine (Linux, without TLS): how busy
this process was then makes no difference. Else it is taken right after each read, before anything looks at the bytes.
Reads happen in callbacks of the event loop: all connections that have something are read one after the other, and the
greenlet of a request is woken once, when it is over. Each wait ends by a limit; one timer per request watches them all.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import gevent.ssl
from gevent import get_hub
from gevent.event import Event
from geventhttpclient.response import HTTPParseError, HTTPResponse

from loadtest.failures import Broken, Failure, Overdue, of_transfer
from loadtest.reply import Reply

Clock: TypeAlias = Callable[[], float]

#: More than a kernel has at once of one stream, and little enough to be made for each read.
_READ_BYTES = 64 * 2**10
_MAX_HEAD_BYTES = 256 * 2**10
#: How long to wait for the end of what nobody needs, only to keep the connection or to read an error's message.
_LINGER_S = 1.0
_READ, _WRITE = 1, 2
#: socket(7): the kernel's time of arrival comes with the bytes, as seconds and nanoseconds since the epoch. Of bytes
#: that came in several packets and are read at once it is that of the last. Python has no name for it.
SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("qq")
_STAMP_SPACE = 64
_NOTHING_YET = (BlockingIOError, gevent.ssl.SSLWantReadError, gevent.ssl.SSLWantWriteError)


class Transfer:
    """One request and its response. `received`: bytes that came; `reusable`: the connection can carry another."""

    def __init__(self, connection: Any, request: bytes, reply: Reply, clock: Clock) -> None:
        self.received = 0
        self.reusable = False
        self._connection = connection
        #: TLS reads records: of one that was read, there may be more than was asked for. It knows no stamps.
        self._pending = getattr(connection, "pending", None)
        self._unsent = memoryview(request)
        self._reply = reply
        self._response = _Response()
        self._clock = clock
        self._over = Event()
        self._error: BaseException | None = None
        self._loop = get_hub().loop
        self._reading = self._loop.io(connection.fileno(), _READ)
        self._writing = self._loop.io(connection.fileno(), _WRITE)
        self._timer: Any = None

    def run(self, stall_s: float, until: float) -> None:
        """Raises Failure."""
        self._stall_s = stall_s
        self._until = until
        self._alive = self._clock()
        try:
            self._reading.start(self._guarded, self._read)
            self._guarded(self._write)
            self._guarded(self._look)
            self._over.wait()
        finally:
            for watcher in (self._reading, self._writing, self._timer):
                if watcher is not None:
                    watcher.stop()
                    watcher.close()
        if self._error is not None:
            raise self._error
        if refused := self._reply.refused():
            raise refused

    def _guarded(self, step: Callable[[], None]) -> None:
        """One step, in a callback."""
        if self._over.is_set():
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the event loop has nobody to raise to: the greenlet that waits gets it
            self._error = error
            self._stop()

    def _stop(self) -> None:
        self._reading.stop()
        self._writing.stop()
        # Wakes the greenlet after the other connections of this round were read.
        self._over.set()

    def _look(self) -> None:
        """Raises Failure when a limit has passed; else looks again at the next one."""
        if self._left() <= 0 and not self._reply.settled:
            # What lies there came in time: it was this process that was late.
            self._read()
        left = self._left()
        if self._over.is_set():
            return
        if left > 0:
            self._look_in(left)
        elif self._reply.settled:
            self._stop()
        elif self._clock() >= self._until:
            raise Overdue
        else:
            raise Failure("stalled", f"not a byte {'more' if self.received else 'came'} within {self._stall_s:.3g} s")

    def _left(self) -> float:
        """Until the next limit."""
        if self._reply.settled:
            return (self._reply.ended or 0.0) + _LINGER_S - self._clock()
        return min(self._alive + self._stall_s, self._until) - self._clock()

    def _look_in(self, left: float) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        self._timer = self._loop.timer(left)
        self._timer.start(self._guarded, self._look, update=True)

    def _write(self) -> None:
        """As much as the connection takes now; the rest when it takes more."""
        try:
            while self._unsent and (sent := self._connection.send(self._unsent)):
                self._unsent = self._unsent[sent:]
                self._alive = self._clock()
        except _NOTHING_YET:
            pass
        except OSError:
            # The server may have said why before it hung up: reading will tell.
            self._writing.stop()
            return
        if not self._unsent:
            self._writing.stop()
        elif not self._writing.active:
            self._writing.start(self._guarded, self._write)

    def _read(self) -> None:
        while True:
            try:
                data, now = self._received()
            except _NOTHING_YET:
                return
            except OSError as error:
                if not self._reply.settled:
                    raise of_transfer(error) from error
                self._stop()
                return
            self._alive = now
            self.received += len(data)
            self._take(data, now)
            if self._pending is None or self._over.is_set() or not self._pending():
                return

    def _received(self) -> tuple[bytes, float]:
        """What came, and when: never before what came or went last, whatever happens to the machine's clock."""
        if self._pending is not None:
            return self._connection.recv(_READ_BYTES), self._clock()
        data, stamps, _, _ = self._connection.recvmsg(_READ_BYTES, _STAMP_SPACE)
        now = self._clock()
        if not stamps:
            return data, now
        seconds, nanoseconds = _STAMP.unpack(stamps[0][2])
        age = time.time() - seconds - nanoseconds * 1e-9
        return data, max(self._alive, now - age) if age > 0 else now

    def _take(self, data: bytes, now: float) -> None:
        response, reply = self._response, self._reply
        broken = response.fed(data)
        if reply.status is None and response.status:
            reply.head(response.status, response.retry_after, now)
        if bodies := response.bodies:
            reply.body(bodies[0] if len(bodies) == 1 else b"".join(bodies), now)
            bodies.clear()
        if response.whole:
            reply.close(now)
            self.reusable = not (self._unsent or response.should_close() or reply.refused())
            self._stop()
        elif broken or not data:
            if not reply.settled:
                raise broken or Failure("cut", "closed in mid-answer" if self.received else "closed without an answer")
            self._stop()
        elif reply.settled:
            self._look()


class _Response(HTTPResponse):  # type: ignore[misc] # geventhttpclient is not looked into
    """geventhttpclient's parser, fed by us. `bodies`: of the response's body, what has come and nobody took."""

    def __init__(self) -> None:
        super().__init__("POST")
        self.bodies: list[bytes] = []
        self._on_body = self.bodies.append
        self._head_bytes = 0

    def fed(self, data: bytes) -> Broken | None:
        """What is wrong with it. All that came before in the same bytes is there all the same."""
        if not self.headers_complete:
            self._head_bytes += len(data)
        try:
            # Not the library's own `feed`, which only mends answers to HEAD.
            super(HTTPResponse, self).feed(data)
        except HTTPParseError as error:
            return None if self.whole or not data else Broken(f"no HTTP: {error}")
        if not self.headers_complete and self._head_bytes > _MAX_HEAD_BYTES:
            return Broken(f"headers of more than {_MAX_HEAD_BYTES >> 10} KiB")
        return None

    @property
    def status(self) -> int | None:
        """None until the headers are there; those of an interim response (1xx) do not count."""
        status: int = self.get_code()
        return status if self.headers_complete and status >= 200 else None

    @property
    def whole(self) -> bool:
        return bool(self.message_complete and self.get_code() >= 200)

    @property
    def retry_after(self) -> str | None:
        value = self.get("retry-after")
        return value if isinstance(value, str) else None
