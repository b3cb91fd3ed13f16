"""Chat and text completions as the official client sees them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from serving.answer import Report
from serving.generation import Done, Token, Usage
from tests.api.conftest import ANSWER, PASSAGES, Replay, Stage, Staging

ASK: Any = [{"role": "user", "content": "What is a Pod?"}]
REPORT = Report("answered", "vllm", "scripted", "default", 1, PASSAGES)
END = [Usage(7, 3, 2), REPORT, Done("stop")]


def events(text: str) -> list[str]:
    """The server-sent events of a body, without their blank lines."""
    assert text.endswith("\n\n")
    return text[:-2].split("\n\n")


async def test_chat_answers_with_annotations_usage_and_the_rag_object(stage: Stage) -> None:
    """The answer's standard places are filled, and each citation's span is its sentence with its marker."""
    reply = await stage.client.chat.completions.create(model="scripted", messages=ASK)
    choice = reply.choices[0]
    assert choice.message.content == ANSWER
    assert choice.finish_reason == "stop"
    assert choice.message.annotations is not None
    cited = [note.url_citation for note in choice.message.annotations]
    assert [(c.url, c.title) for c in cited] == [("docs/pods.md", "Pods"), ("docs/nodes.md", "Nodes")]
    assert [ANSWER[c.start_index : c.end_index].strip()[-3:] for c in cited] == ["[1]", "[2]"]
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    rag: Any = reply.model_extra["rag"]  # type: ignore[index]
    assert (rag["outcome"], rag["engine"], rag["collection"], rag["generation"]) == ("answered", "vllm", "default", 1)
    assert [passage["chunk_id"] for passage in rag["passages"]] == ["c1", "c2"]
    assert {"embed", "search", "first_token", "total"} <= rag["timings_ms"].keys()


async def test_stream_and_body_say_the_same(stage: Stage) -> None:
    """Text, annotations, reason and usage of a stream are those of the whole answer."""
    whole = await stage.client.chat.completions.create(model="extractive", messages=ASK)
    stream = await stage.client.chat.completions.create(
        model="extractive", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    annotations = [note for delta in deltas for note in getattr(delta, "annotations", None) or []]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert annotations == [note.model_dump() for note in whole.choices[0].message.annotations or []]
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage == whole.usage


async def test_stream_has_the_order_of_openai(stage: Stage) -> None:
    """Role and passages first, one event per token, reason, usage with the whole rag object, then [DONE]."""
    reply = await stage.chat(stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *data, done = [event.removeprefix("data: ") for event in events(reply.text)]
    assert done == "[DONE]"
    first, *middle, reason, usage = map(json.loads, data)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [passage["chunk_id"] for passage in first["rag"]["passages"]] == ["c1", "c2"]
    assert "total" not in first["rag"]["timings_ms"]
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in middle]
    assert "".join(text for text in texts if text) == ANSWER
    assert len([text for text in texts if text is not None]) >= 13
    assert reason["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 14
    assert "total" in usage["rag"]["timings_ms"]
    assert len({chunk["id"] for chunk in (first, *middle, reason, usage)}) == 1


async def test_stream_without_usage_ends_with_the_reason(stage: Stage) -> None:
    """Nothing of the usage is in a stream that did not ask, and the last chunk still has the rag object."""
    reply = await stage.chat(stream=True)
    *_, reason, done = events(reply.text)
    assert done == "data: [DONE]"
    assert json.loads(reason[6:])["rag"]["outcome"] == "answered"
    assert '"usage"' not in reply.text


async def test_tokens_survive_every_character(staged: Staging) -> None:
    """Quotes, newlines, control characters and emoji of a token arrive as they were."""
    odd = ['"', "\\", "\n\n", "data: [DONE]\n\n", "\x00", "é", "🦙", "</script>", "\u2028"]
    answerer = Replay([[REPORT, *map(Token, odd)], END])
    async with staged(answerer=answerer) as stage:
        stream = await stage.client.chat.completions.create(model="scripted", messages=ASK, stream=True)
        assert [c.choices[0].delta.content async for c in stream if c.choices][1:-1] == odd
        whole = await stage.client.chat.completions.create(model="scripted", messages=ASK)
        assert whole.choices[0].message.content == "".join(odd)


async def test_tool_calls_and_logprobs_pass_through(staged: Staging) -> None:
    """Deltas beside the text reach the stream as they are, and the body joined; the engine gets the tools."""
    calls = [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    deltas = [{"tool_calls": [call], "logprobs": {"content": [{"token": "x"}]}} for call in calls]
    answerer = Replay([[REPORT, *(Token("", delta) for delta in deltas)], [Usage(1, 1), REPORT, Done("tool_calls")]])
    tools: Any = [{"type": "function", "function": {"name": "look"}}]
    async with staged(answerer=answerer) as stage:
        reply = await stage.client.chat.completions.create(
            model="scripted", messages=ASK, tools=tools, tool_choice="auto", logprobs=True, top_logprobs=2
        )
        stream = await stage.client.chat.completions.create(model="scripted", messages=ASK, tools=tools, stream=True)
        chunks = [chunk async for chunk in stream]
    message = reply.choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    assert message.tool_calls[0].model_dump() == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": '{"a":1}'},
    }
    assert len(reply.choices[0].logprobs.content) == 2  # type: ignore[union-attr, arg-type]
    assert chunks[1].choices[0].delta.tool_calls[0].function.name == "look"  # type: ignore[index, union-attr]
    assert chunks[1].choices[0].logprobs is not None
    assert answerer.asks[0].sampling.extra == {
        "tools": tools,
        "tool_choice": "auto",
        "logprobs": True,
        "top_logprobs": 2,
    }


async def test_sampling_reaches_the_engine_as_given(staged: Staging) -> None:
    """0 stays 0, what is not given stays None, and max_completion_tokens wins over max_tokens."""
    answerer = Replay([[REPORT, Token("x")], END])
    async with staged(answerer=answerer) as stage:
        await stage.chat(temperature=0, top_p=0.5, seed=7, stop="a", max_tokens=5, max_completion_tokens=9, user="u")
        await stage.chat(stop=["a", "b"], unknown_field={"x": 1})
    first, second = (ask.sampling for ask in answerer.asks)
    assert (first.temperature, first.top_p, first.seed, first.stop, first.max_tokens) == (0, 0.5, 7, ("a",), 9)
    assert (second.temperature, second.top_p, second.stop, second.max_tokens) == (None, None, ("a", "b"), None)


async def test_limits_of_the_caller_end_the_answer(stage: Stage) -> None:
    """max_tokens and stop show in the text and in the reason."""
    short = await stage.client.chat.completions.create(model="scripted", messages=ASK, max_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("A Pod", "length")
    stopped = await stage.client.chat.completions.create(model="scripted", messages=ASK, stop=[" smallest"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("A Pod is the", "stop")


async def test_messages_in_every_accepted_form(staged: Staging) -> None:
    """All five roles, text parts, an empty assistant turn: the engine gets plain strings."""
    answerer = Replay([[REPORT, Token("x")], END])
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
        {"role": "tool", "content": "", "tool_call_id": "1"},
        {"role": "user", "content": "three", "name": "Ada"},
    ]
    async with staged(answerer=answerer) as stage:
        await stage.client.chat.completions.create(model="scripted", messages=messages)
    assert [(m["role"], m["content"]) for m in answerer.asks[0].messages] == [
        ("system", "Be brief."),
        ("user", "one\ntwo"),
        ("assistant", ""),
        ("tool", ""),
        ("user", "three"),
    ]


@pytest.mark.parametrize("prompt", ["What is a Pod?", ["What is a Pod?"]])
async def test_completions_answer_one_prompt(stage: Stage, prompt: Any) -> None:
    """A prompt is a question where there are documents; the stream has the same text."""
    reply = await stage.client.completions.create(model="scripted", prompt=prompt)
    assert reply.choices[0].text == ANSWER
    assert len(reply.choices[0].model_extra["annotations"]) == 2  # type: ignore[index]
    stream = await stage.client.completions.create(model="scripted", prompt=prompt, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream if chunk.choices]) == ANSWER


async def test_completion_without_retrieval_is_raw_text(stage: Stage) -> None:
    """NAME@none hands the prompt to the engine as it is, and no passage."""
    await stage.client.completions.create(model="scripted@none", prompt="Once upon")
    request = stage.generator.requests[-1]
    assert (request.prompt, request.passages) == ("Once upon", ())


async def test_retrieval_is_chosen_by_model_name_and_rag_object(stage: Stage) -> None:
    """Each field of `rag` reaches the retriever; the model's name alone is enough for a collection."""
    rag = {"top_k": 1, "mode": "dense", "min_score": 0.0, "per_document": 3, "filter": {"n": 1}}
    await stage.client.chat.completions.create(model="scripted@other", messages=ASK, extra_body={"rag": rag})
    asked = stage.shelf.asked[-1]
    assert (asked.collection, asked.top_k, asked.mode, asked.min_score) == ("other", 1, "dense", 0.0)
    assert (asked.per_document, asked.filter) == (3, {"n": 1})
    await stage.client.chat.completions.create(model="scripted", messages=ASK, extra_body={"rag": {}})
    assert stage.shelf.asked[-1].collection == "default"
    before = len(stage.shelf.asked)
    plain = await stage.chat(model="scripted@none")
    assert len(stage.shelf.asked) == before
    assert plain.json()["rag"]["collection"] is None


async def test_nothing_found_is_said(stage: Stage) -> None:
    """Without a passage the outcome is no_context and the sentence names the collection."""
    reply = (await stage.chat("nothing of this")).json()
    assert reply["rag"]["outcome"] == "no_context"
    assert "'default'" in reply["choices"][0]["message"]["content"]


async def test_an_answer_without_an_end_is_an_error(staged: Staging) -> None:
    """An engine that stops without a reason is never an empty 200."""
    async with staged(answerer=Replay([[REPORT]])) as stage:
        assert (await stage.chat()).status_code == 502
        assert (await stage.chat(stream=True)).status_code == 502
        with pytest.raises(openai.APIStatusError) as refused:
            await stage.client.chat.completions.create(model="scripted", messages=ASK)
        assert refused.value.code == "llm_failed"
