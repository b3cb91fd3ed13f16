"""The clients see what a server sent, however it was cut on the way."""

from __future__ import annotations

import json

import pytest

from loadtest.bench.client import BenchError, body_of, has_content, pieces_of, read_stream, request_bytes
from loadtest.bench.flood import flood
from loadtest.bench.sides import same_pieces
from tests.loadtest.conftest import SendingServer

HOST = "127.0.0.1"
PATH = "/v1/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(**delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}, separators=(",", ":")).encode() + b"\n\n"


EVENTS = [
    event(role="assistant", content=""),
    *(event(content=f" w{number}") for number in range(5)),
    b"data: [DONE]\n\n",
]


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def cut(response: bytes, size: int) -> list[bytes]:
    return [response[start : start + size] for start in range(0, len(response), size)]


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
@pytest.mark.parametrize("chunks", [EVENTS, [b"".join(EVENTS)], cut(b"".join(EVENTS), 11)])
async def test_a_stream_is_read_whole_however_it_is_cut(sending: SendingServer, chunks: list[bytes], size: int) -> None:
    """Neither the server's chunks nor the network's packets move the words."""
    async with sending(cut(HEAD + chunked(*chunks), size)) as port:
        stream = await read_stream(HOST, port, PATH, {})
    assert pieces_of(body_of(stream.response)) == [" w0", " w1", " w2", " w3", " w4"]
    assert 0 < stream.first_s <= stream.total_s


async def test_many_streams_at_once_are_read_whole(sending: SendingServer) -> None:
    """The client that looks only now and then loses nothing."""
    async with sending(cut(HEAD + chunked(*EVENTS), 50)) as port:
        found = await flood(HOST, port, request_bytes(HOST, port, PATH, {}), 8)
    assert len(found.responses) == 8
    for response in found.responses:
        same_pieces("server", response, 5)
    assert found.client_cpu_s < found.total_s


async def test_a_refusal_is_no_stream(sending: SendingServer) -> None:
    """A peer that answers with an error voids the run instead of being very fast."""
    async with sending([b"HTTP/1.1 429 Too Many Requests\r\n\r\ndata: [DONE]\n\n"]) as port:
        with pytest.raises(BenchError, match="429"):
            await read_stream(HOST, port, PATH, {})
        with pytest.raises(BenchError, match="429"):
            await flood(HOST, port, request_bytes(HOST, port, PATH, {}), 2)


async def test_a_stream_without_an_end_is_no_answer(sending: SendingServer) -> None:
    """Tokens that were lost do not count as relayed."""
    async with sending([HEAD, *EVENTS[:-1]]) as port:
        with pytest.raises(BenchError, match="without"):
            await read_stream(HOST, port, PATH, {})
        with pytest.raises(BenchError, match="without"):
            await flood(HOST, port, request_bytes(HOST, port, PATH, {}), 2)


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_a_missing_token_is_noticed(lost: int) -> None:
    """Every side must send every token, each in an event of its own."""
    with pytest.raises(BenchError, match="4 pieces instead of 5"):
        same_pieces("server", HEAD + chunked(*EVENTS[:lost], *EVENTS[lost + 1 :]), 5)


def test_the_role_is_not_the_first_token() -> None:
    """Empty content and the passages of the answer come before the engine has said anything."""
    assert not has_content(EVENTS[0])
    assert not has_content(b'{"rag":{"passages":[{"text":"kept"}]}}')
    assert not has_content(b'"content":"')
    assert has_content(b"".join(EVENTS[:2]))
    assert has_content(b'"content":"x', seen=11)
