"""What passes between the pool and its workers: a head in JSON and a body of bytes, each with its length before it.

No pickle: what comes back from a process that read a hostile file is only ever read as data.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from serving.index.types import Chunk, Document

#: Length of the head and of the body, bytes.
_LENGTHS = struct.Struct(">QQ")
#: No head is larger: one chunk takes about 150 bytes of it.
_MAX_HEAD = 512 * 1024**2


@dataclass(frozen=True, slots=True)
class Job:
    """One file to parse. `format` is a suffix (".html") that overrides the name's; `title` and `metadata` win over what
    the file says of itself."""

    uri: str
    name: str
    data: bytes = field(repr=False)
    tenant: str
    collection: str
    chunk_tokens: int
    format: str | None = None
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rechunk:
    """A document that was loaded before, to be divided anew: for another embedding model or another size of chunks."""

    document: Document
    tenant: str
    collection: str
    chunk_tokens: int


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document with its chunks, in order."""

    document: Document
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a file cannot be ingested: final for these bytes."""

    reason: str


class Closed(Exception):
    """The other side is gone."""


Frame = tuple[dict[str, Any], bytearray]


def send(channel: socket.socket, head: Mapping[str, Any], body: bytes | memoryview = b"") -> None:
    """Raises Closed, TimeoutError (the channel's own limit, for all of it)."""
    encoded = orjson.dumps(head)
    try:
        channel.sendall(_LENGTHS.pack(len(encoded), len(body)) + encoded)
        channel.sendall(body)
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed(str(error)) from error


def receive(channel: socket.socket, max_body: int, deadline: float | None = None) -> Frame:
    """Raises Closed, TimeoutError (after `deadline`, of time.monotonic), ValueError (larger than it may be)."""
    head_length, body_length = _LENGTHS.unpack(_exactly(channel, _LENGTHS.size, deadline))
    if head_length > _MAX_HEAD or body_length > max_body:
        raise ValueError(f"a message of {head_length + body_length:,} bytes")
    head = orjson.loads(_exactly(channel, head_length, deadline))
    return head, _exactly(channel, body_length, deadline)


def _exactly(channel: socket.socket, length: int, deadline: float | None) -> bytearray:
    buffer = bytearray(length)
    view = memoryview(buffer)
    done = 0
    while done < length:
        if deadline is not None:
            channel.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            count = channel.recv_into(view[done:])
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from error
        if not count:
            raise Closed("end of stream")
        done += count
    return buffer


def job_frame(job: Job | Rechunk) -> tuple[dict[str, Any], bytes]:
    """Its body is the file, or the text."""
    head: dict[str, Any] = {"tenant": job.tenant, "collection": job.collection, "chunk_tokens": job.chunk_tokens}
    if isinstance(job, Rechunk):
        document = job.document
        head |= {"uri": document.uri, "title": document.title, "metadata": dict(document.metadata), "is_text": True}
        return head, document.text.encode()
    head |= {"uri": job.uri, "title": job.title, "metadata": dict(job.metadata), "is_text": False}
    return {**head, "name": job.name, "format": job.format}, job.data


def job_of(head: Mapping[str, Any], body: bytearray) -> Job | Rechunk:
    """The inverse of `job_frame`; takes the bytes over without a copy."""
    tenant, collection, chunk_tokens = head["tenant"], head["collection"], head["chunk_tokens"]
    uri, title, metadata = head["uri"], head["title"], head["metadata"]
    if head["is_text"]:
        return Rechunk(Document(uri, title, body.decode(), metadata), tenant, collection, chunk_tokens)
    data: Any = body
    return Job(uri, head["name"], data, tenant, collection, chunk_tokens, head["format"], title, metadata)


def parsed_frame(document: Document, chunks: Sequence[Chunk]) -> tuple[dict[str, Any], bytes]:
    """Its body is the document's text; of a chunk only what the document does not say travels."""
    head = {
        "uri": document.uri,
        "title": document.title,
        "metadata": dict(document.metadata),
        "chunk_title": chunks[0].title if chunks else "",
        "chunk_metadata": sorted(document.metadata.keys() & chunks[0].metadata.keys()) if chunks else [],
        "chunks": [
            (
                chunk.id,
                chunk.start,
                chunk.end,
                chunk.heading,
                {key: value for key, value in chunk.metadata.items() if key not in document.metadata},
            )
            for chunk in chunks
        ],
    }
    return head, document.text.encode()


def parsed_of(head: Mapping[str, Any], body: bytearray) -> ParsedDocument:
    """The inverse of `parsed_frame`."""
    document = Document(head["uri"], head["title"], body.decode(), head["metadata"])
    inherited = {key: document.metadata[key] for key in head["chunk_metadata"]}
    chunks = (
        Chunk(
            id=chunk_id,
            uri=document.uri,
            title=head["chunk_title"],
            text=document.text[start:end],
            start=start,
            end=end,
            heading=tuple(heading),
            ordinal=ordinal,
            metadata={**inherited, **own},
        )
        for ordinal, (chunk_id, start, end, heading, own) in enumerate(head["chunks"])
    )
    return ParsedDocument(document, tuple(chunks))
