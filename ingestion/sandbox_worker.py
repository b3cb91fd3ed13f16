"""The process that reads untrusted files: `python -m ingestion.sandbox_worker`, started by `sandbox_process.Worker`.

A job comes as a frame on its socket, a document with chunks or a reason goes back; the end of the stream ends it.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

from ingestion import sandbox_limits as limits
from ingestion import sandbox_wire as wire
from serving.errors import DocumentError
from serving.index.types import Document

#: What remains unused is not worth a message of its own.
_MAX_REASON = 300


def main() -> None:
    """Arguments as one JSON object: fd, parent, model (a folder), timeout_s, memory_bytes, max_text_characters."""
    arguments = json.loads(sys.argv[1])
    limits.bind_to_parent(arguments["parent"])
    channel = socket.socket(fileno=arguments["fd"])
    worker = _Worker(arguments)
    limits.confine()
    wire.send(channel, {"ready": True})
    while True:
        try:
            head, body = wire.receive(channel, max_body=sys.maxsize)
            wire.send(channel, *worker.answer(head, body))
        except wire.Closed:
            return


class _Worker:
    def __init__(self, arguments: dict[str, Any]) -> None:
        # Imported here: the process is bound to its parent before anything takes time.
        from ingestion.chunk import Chunker
        from ingestion.load import load
        from serving.index.tokenizer import load_tokenizer

        self._load = load
        self._chunker = Chunker
        self._tokenizer = load_tokenizer(arguments["model"])
        self._tokenizer.count(["The first text takes the longest."])
        self._timeout_s = arguments["timeout_s"]
        self._memory_bytes = arguments["memory_bytes"]
        self._max_characters = arguments["max_text_characters"]

    def answer(self, head: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], bytes]:
        """`status` is parsed, refused, or memory (refused for want of it)."""
        limits.limit_memory(self._memory_bytes)
        limits.limit_cpu(self._timeout_s)
        try:
            answer, text = self._parse(wire.job_of(head, body))
        except DocumentError as error:
            answer, text = {"status": "refused", "reason": str(error)}, b""
        except MemoryError:
            limits.lift_memory_limit()
            answer, text = {"status": "memory"}, b""
        except RecursionError:
            answer, text = {"status": "refused", "reason": "cannot be parsed: nested too deeply"}, b""
        # The edge of one document: whatever a parsing library does with a hostile file, only that file fails. A panic
        # of a library written in Rust is no Exception.
        except BaseException as error:  # noqa: BLE001
            reason = f"cannot be parsed ({type(error).__name__}: {' '.join(str(error).split())[:_MAX_REASON]})"
            answer, text = {"status": "refused", "reason": reason}, b""
        limits.limit_cpu(0)
        return {**answer, "resident": limits.resident_bytes()}, text

    def _parse(self, job: wire.Job | wire.Rechunk) -> tuple[dict[str, Any], bytes]:
        document = job.document if isinstance(job, wire.Rechunk) else self._loaded(job)
        chunker = self._chunker(
            self._tokenizer, chunk_tokens=job.chunk_tokens, tenant=job.tenant, collection=job.collection
        )
        head, text = wire.parsed_frame(document, chunker.chunk(document))
        return {**head, "status": "parsed"}, text

    def _loaded(self, job: wire.Job) -> Document:
        document = self._load(job.uri, job.name, job.data, format=job.format, title=job.title, metadata=job.metadata)
        if len(document.text) > self._max_characters:
            raise DocumentError(
                f"too large: {len(document.text):,} characters of text, the limit is {self._max_characters:,} "
                "(setting ANCHORAGE_INGESTION__MAX_TEXT_CHARACTERS)"
            )
        return document


if __name__ == "__main__":
    main()
