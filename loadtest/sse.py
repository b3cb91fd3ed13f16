"""Server-sent events out of bytes, however these were cut on the way (WHATWG HTML, 9.2.6)."""

from __future__ import annotations

from loadtest.failures import Broken

#: An event may be so long; the passages of an answer come in one. More is no event, but a way to fill the memory.
MAX_EVENT_BYTES = 8 * 2**20


class Events:
    """Of one stream. Bytes, not text: a letter that was cut in two is whole again before anybody decodes it.

    Of what a block says only `data` is read: comments, `event`, `id` and `retry` mean nothing to an answer.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._looked = 0
        #: The last byte was CR: LF as the next one belongs to it.
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that are whole by now, see `data_of`. Raises Broken for one that never ends."""
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        if self._rest:
            return self._found(data)
        blocks = data.split(b"\n\n")
        if rest := blocks.pop():
            self._keep(rest)
        return blocks

    def end(self) -> bytes:
        """A last block without an empty line behind it, as some servers end with `[DONE]`."""
        return bytes(self._rest)

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
        return blocks.split(b"\n\n")

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


def data_of(block: bytes) -> bytes | None:
    """The data in the lines of a block; None if there is none: a comment is a block, too."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line == b"data" or line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
