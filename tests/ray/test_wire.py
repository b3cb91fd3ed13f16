"""What travels between the engine and the Api: vLLM's stream in, generation events out."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from serving import vllm
from serving.errors import EngineUnavailable, InvalidRequest, PromptTooLong
from serving.generation import Done, GenerationRequest, Sampling, Token, Usage


def sse(chunk: dict[str, Any]) -> str:
    return f"data: {orjson.dumps(chunk).decode()}\n\n"


def chat(delta: dict[str, Any], **choice: Any) -> str:
    return sse({"choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]})


def test_a_chat_stream_becomes_tokens_usage_and_a_reason() -> None:
    """The opening chunk says nothing; the reason, which vLLM sends before the usage, is handed out apart."""
    chunks = [
        chat({"role": "assistant", "content": ""}),
        chat({"content": "Hel"}),
        chat({"content": "lo\n\n"}),
        chat({"content": ""}, finish_reason="stop"),
        sse({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None}}),
        "data: [DONE]\n\n",
    ]
    batch, done = vllm.done_last(vllm.Reader().items(chunks))
    assert done is not None
    assert vllm.events([*batch, done]) == [Token("Hel"), Token("lo\n\n"), Usage(3, 2, 0), Done("stop")]


def test_a_completion_stream_has_its_text_in_another_place() -> None:
    """Text completions carry `text` in the choice itself."""
    chunk = sse({"choices": [{"index": 0, "text": "pod", "logprobs": None, "finish_reason": "length"}]})
    assert vllm.events(vllm.Reader().items([chunk])) == [Token("pod"), Done("length")]


def test_tool_calls_and_log_probabilities_travel_beside_the_text() -> None:
    """What a chunk has besides text is kept in OpenAI's shape."""
    call = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}
    chunks = [chat(call), chat({"content": "a"}, logprobs={"content": [{"token": "a"}]})]
    assert vllm.events(vllm.Reader().items(chunks)) == [
        Token("", call),
        Token("a", {"logprobs": {"content": [{"token": "a"}]}}),
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "temperature must be non-negative", "code": 400, "param": "temperature"}, InvalidRequest),
        ({"message": "This model's maximum context length is 8 tokens.", "code": 400}, PromptTooLong),
        ({"message": "boom", "code": 500}, EngineUnavailable),
        ({"message": "boom"}, EngineUnavailable),
    ],
)
def test_an_error_in_the_stream_is_raised_as_ours(error: dict[str, Any], expected: type[Exception]) -> None:
    """4xx is the caller's, anything else the engine's."""
    with pytest.raises(expected):
        vllm.events(vllm.Reader().items([sse({"error": error})]))


def test_an_aborted_answer_is_not_a_finished_one() -> None:
    """A finish reason that no caller knows means that the engine gave up."""
    with pytest.raises(EngineUnavailable, match="abort"):
        vllm.events(vllm.Reader().items([chat({"content": ""}, finish_reason="abort")]))


def test_what_was_not_given_is_left_out_and_zero_stays_zero() -> None:
    """vLLM's own defaults hold for None; 0 is a value."""
    sampling = Sampling(max_tokens=4, temperature=0.0, seed=0, extra={"logit_bias": {"1": 1}})
    request = GenerationRequest("r", "tiny", ({"role": "user", "content": "hi"},), sampling, "hi")
    kind, body = vllm.body(request)
    assert kind == "chat"
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.0, 0, 4)
    assert "top_p" not in body
    assert "stop" not in body
    assert body["logit_bias"] == {"1": 1}


PIECES = [("a", [10]), ("b", [11]), ("cd", [12, 13]), ("", [14]), ("e", [15])]


def test_the_ids_of_tokens_travel_before_their_text() -> None:
    """All of a batch together, and the prompt's with the first; also of chunks with several tokens, or without text."""
    opening = sse(
        {"prompt_token_ids": [1, 2], "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    )
    chunks = [opening, *(chat({"content": text}, token_ids=ids) for text, ids in PIECES)]
    reader = vllm.Reader()
    batches = [reader.items([chunk]) for chunk in chunks]
    assert batches[0] == [(vllm.IDS, [], [1, 2])]
    assert batches[2] == [(vllm.IDS, [11], None), "b"]
    assert vllm.Reader().items(chunks) == [(vllm.IDS, [10, 11, 12, 13, 14, 15], [1, 2]), "a", "b", "cd", "e"]
    assert vllm.events(vllm.Reader().items(chunks)) == [Token("a"), Token("b"), Token("cd"), Token("e")]


def test_a_completion_says_its_prompts_ids_in_its_first_choice() -> None:
    """vLLM puts them beside the text there, which must not slow down the chunks that come without them."""
    first = {"index": 0, "text": "a", "finish_reason": None, "prompt_token_ids": [1, 2], "token_ids": [3]}
    then = {"index": 0, "text": "b", "finish_reason": None, "prompt_token_ids": None, "token_ids": [4]}
    chunks = [sse({"choices": [choice]}) for choice in (first, then, then)]
    assert vllm.Reader().items(chunks) == [(vllm.IDS, [3, 4, 4], [1, 2]), "a", "b", "b"]


def test_ids_are_asked_for_where_an_answer_can_go_on_elsewhere() -> None:
    """Not where an engine's parser or grammar would have to start in the middle."""
    for extra, asked in (
        ({}, True),
        ({"logit_bias": {"1": 1}}, True),
        ({"tools": []}, False),
        ({"logprobs": True}, False),
    ):
        request = GenerationRequest("r", "tiny", (), Sampling(extra=extra), "hi", prompt="A pod")
        assert ("return_token_ids" in vllm.body(request)[1]) is asked
