"""Server-sent events out of bytes, however these were cut on the way (WHATWG HTML, 9.2.6)."""

from __future__ import annotations

from loadtest.failures import Broken

#: An event may be so long; the passages of an answer come in one. More is no event, but a way to fill the memory.
MAX_EVENT_BYTES = 8 * 2**20


class Events:
    """Of one stream. Bytes, not text: a letter that was cut in two is whole again before anybody decodes it.

    Only `data` is read: comments, `event`, `id` and `retry` mean nothing to an answer.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._looked = 0
        #: The last byte was CR: LF as the next one belongs to it.
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are whole by now. Raises Broken for one that never ends."""
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        elif data.startswith(b"data: ") and data.find(b"\n") == len(data) - 2 and data[-1] == 10 and not self._rest:
            # One whole event, as servers send most of them: nothing to split.
            return [data[6:-2]]
        if self._rest:
            return self._found(data)
        *blocks, rest = data.split(b"\n\n")
        if rest:
            self._keep(rest)
        return [found for block in blocks if (found := _data(block)) is not None]

    def end(self) -> bytes | None:
        """Data of a last event without an empty line behind it, as some servers end with `[DONE]`."""
        return _data(bytes(self._rest))

    def _found(self, data: bytes) -> list[bytes]:
        """With what came before, of which nothing is looked at twice: an event may come in thousands of pieces."""
        rest = self._rest
        rest += data
        end = rest.rfind(b"\n\n", max(0, self._looked - 1))
        if end < 0:
            self._keep(b"")
            return []
        blocks = bytes(rest[:end])
        del rest[: end + 2]
        self._keep(b"")
        return [found for block in blocks.split(b"\n\n") if (found := _data(block)) is not None]

    def _keep(self, rest: bytes) -> None:
        self._rest += rest
        self._looked = len(self._rest)
        if self._looked > MAX_EVENT_BYTES:
            raise Broken(f"an event of more than {MAX_EVENT_BYTES >> 20} MiB")

    def _with_lf(self, data: bytes) -> bytes:
        """CR and CRLF end lines, too."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(block: bytes) -> bytes | None:
    """Of the lines of one event; None if it has no data."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line == b"data" or line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
