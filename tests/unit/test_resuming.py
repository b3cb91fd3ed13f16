"""Where a second engine goes on with an answer, and what it is asked."""

from __future__ import annotations

import random
from itertools import takewhile
from typing import Any

import pytest
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from serving import vllm
from serving.errors import EngineUnavailable
from serving.generation import GenerationRequest, Sampling
from serving.resuming import Answer, Begun, Seam
from serving.vllm import DELTA, DONE, FROM, IDS, USAGE
from tests.tinyllama import train_tokenizer

LOST = EngineUnavailable("lost")
MESSAGES = ({"role": "user", "content": "hello"},)


@pytest.fixture(scope="module")
def tokens() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=train_tokenizer(), bos_token="<|begin|>", eos_token="<|end|>")


def text_of(tokens: PreTrainedTokenizerFast, prompt: list[int], ids: list[int]) -> str:
    """As vLLM decodes a stream: half a character is held back."""
    stream = DecodeStream(ids=prompt, skip_special_tokens=True)
    return "".join(stream.step(tokens._tokenizer, number) or "" for number in ids)


def request(**sampling: Any) -> GenerationRequest:
    return GenerationRequest("r1", "tiny", MESSAGES, Sampling(**{"max_tokens": 10, **sampling}), "hello")


def answer(*batches: list[vllm.Item], **sampling: Any) -> Answer:
    answer = Answer(request(**sampling))
    for batch in batches:
        answer.take(batch)
    return answer


@pytest.mark.parametrize("held", [0, 1, 4, 9])
def test_the_seam_is_where_the_readers_text_ends(tokens: PreTrainedTokenizerFast, held: int) -> None:
    """Whatever the engine held back of its text, the tokens up to the seam say exactly what the reader has."""
    choose = random.Random(held)
    prompt = tokens.encode("<|user|>hello<|end|><|assistant|>", add_special_tokens=False)
    for _ in range(50):
        ids = tokens.encode("Kubernetes starts a pod — “on a node”; 節点 ✓ " * 3, add_special_tokens=False)
        ids = ids[: choose.randint(10, len(ids))]
        text = text_of(tokens, prompt, ids)
        text = text[: len(text) - held]
        seam = Seam.find(Begun(text, prompt, ids, beside=False), tokens)
        assert text_of(tokens, prompt, seam.ids) == text
        # A character has at most three tokens here.
        same = list(takewhile(lambda pair: pair[0] == pair[1], zip(seam.ids, ids, strict=False)))
        assert len(same) >= len(ids) - 3 * (held + 2)


def test_tokens_without_text_at_the_end_are_written_again(tokens: PreTrainedTokenizerFast) -> None:
    """The one that ended the answer, whose news was lost, must not be in the middle of it."""
    ids = tokens.encode("a pod", add_special_tokens=False)
    seam = Seam.find(Begun("a pod", [5, 6], [*ids, tokens.eos_token_id], beside=False), tokens)
    assert seam.ids == ids


def test_text_that_is_not_in_its_tokens_is_put_into_tokens_anew(tokens: PreTrainedTokenizerFast) -> None:
    """A tokenizer that decodes otherwise than the stream: the text decides."""
    seam = Seam.find(Begun("a node", [5, 6], tokens.encode("a pod", add_special_tokens=False), beside=False), tokens)
    assert tokens.decode(seam.ids) == "a node"


def test_after_the_reasoning_only_the_answer_is_looked_for(tokens: PreTrainedTokenizerFast) -> None:
    """A reader has the reasoning apart from the text; both are in the tokens, in this order."""
    ids = tokens.encode("the node is for the pod</think>a pod is", add_special_tokens=False)
    assert Seam.find(Begun("a pod", [5], ids, beside=True), tokens).ids == ids[: len(ids) - 1]
    with pytest.raises(EngineUnavailable, match="cannot be told"):
        Seam.find(Begun("a tree", [5], ids, beside=True), tokens)


@pytest.mark.parametrize(
    ("whole", "text", "stop", "rest"),
    [
        ("<think>1+1</think>11 pods", "1", ["1 pods now"], "1 pods"),  # nine characters are held back
        ("<think>1+1</think>1+1", "1", ["abc"], "+1"),
        ("<think>1+1</think>1\0", "1", ["abcdef"], "\0"),  # ended: nothing was held back any more
        ("<think>1+1</think>1+1", "1+1", [], ""),
    ],
)
def test_a_short_text_is_found_where_the_engine_stood(whole: str, text: str, stop: list[str], rest: str) -> None:
    """It may stand in the reasoning and in what is held back, too: nothing of the answer is left out."""

    class Letters:
        def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
            return "".join(map(chr, ids)).replace("\0", "")

        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [ord(letter) for letter in text]

    seam = Seam.find(Begun(text, [32], [ord(letter) for letter in whole], beside=True), Letters(), stop)
    assert "".join(map(chr, seam.ids)) == whole.removesuffix(rest)


def test_the_second_engine_is_asked_for_the_rest() -> None:
    """Prompt and answer so far are its prompt; what was given counts; what only chats know is left out."""
    first: list[vllm.Item] = [(IDS, [4, 5], [1, 2, 3]), "a", " b"]
    lost = answer([(FROM, "x")], first, temperature=0.0, stop=("END",), seed=7, extra={"min_tokens": 5})
    lost.failed(LOST, taken=True)
    kind, body, begun = lost.call()
    assert begun == Begun("a b", [1, 2, 3], [4, 5], beside=False)
    rest = Seam(begun, begun.ids).body(body)
    assert (kind, "messages" in rest, rest["prompt"]) == ("chat", False, [1, 2, 3, 4, 5])
    assert (rest["max_tokens"], rest["min_tokens"]) == (8, 3)
    assert (rest["stop"], rest["seed"], rest["temperature"]) == (["END"], 7, 0.0)
    assert rest["request_id"] not in ("r1", "")


def test_two_engines_count_as_one() -> None:
    """The prompt once; the answer's tokens from both."""
    seam = Seam(Begun("a b", [1, 2, 3], [4, 5], beside=False), [4, 5])
    batch: list[vllm.Item] = [(IDS, [6], [1, 2, 3, 4, 5]), " c", (USAGE, 5, 1, 5), (DONE, "stop")]
    assert seam.joined(batch) == [(IDS, [6], None), " c", (USAGE, 3, 3, 3), (DONE, "stop")]
    resumed = answer([(IDS, [4, 5], [1, 2, 3]), "a b"], [seam.opening()], seam.joined(batch)[:2])
    resumed.failed(LOST, taken=True)
    assert resumed.call()[2] == Begun("a b c", [1, 2, 3], [4, 5, 6], beside=False)


def test_an_answer_with_all_its_tokens_only_ends() -> None:
    """The engine was lost between the last token and the word that it was the last."""
    seam = Seam(Begun("a b", [1, 2, 3], [4, 5], beside=False), [4, 5])
    assert seam.complete({"max_tokens": 2})
    assert seam.end() == [(USAGE, 3, 2, 0), (DONE, "length")]


def test_without_a_token_the_whole_request_is_made_again() -> None:
    """Another id, nothing else: also for what cannot go on in its middle."""
    tools = {"tools": [{"type": "function"}]}
    lost = answer([(FROM, "x")], [(IDS, [4], [1, 2, 3])], extra=tools)
    before = lost.call()
    lost.failed(LOST, taken=True)
    kind, body, begun = lost.call()
    assert (kind, begun) == ("chat", None)
    assert {**body, "request_id": "r1"} == before[1]


@pytest.mark.parametrize(
    "batch",
    [
        ["no ids"],
        [(IDS, [4], [1]), (DELTA, "", {"tool_calls": [{"index": 0}]})],
        [(IDS, [4], [1]), (DELTA, "", {"reasoning": "hm"})],
    ],
)
def test_what_cannot_go_on_fails_as_it_is(batch: list[vllm.Item]) -> None:
    """An engine that says no ids, tool calls, and reasoning without an answer yet."""
    with pytest.raises(EngineUnavailable, match="lost"):
        answer(batch).failed(LOST, taken=True)


def test_a_request_that_ends_engines_is_tried_on_three() -> None:
    """Attempts that reached nobody do not count, but are not endless either."""
    poison = answer()
    for _ in range(2):
        poison.failed(EngineUnavailable("nobody"), taken=False)
        poison.failed(LOST, taken=True)
    with pytest.raises(EngineUnavailable, match="lost"):
        poison.failed(LOST, taken=True)
    unreached = answer()
    with pytest.raises(EngineUnavailable, match="nobody"):  # noqa: PT012 - which of them it is does not matter
        for _ in range(100):
            unreached.failed(EngineUnavailable("nobody"), taken=False)


def test_who_waits_for_an_engine() -> None:
    """An answer that has begun, and a caller who said so."""
    begun, fresh = answer([(IDS, [4], [1]), "a"]), answer()
    assert not begun.patient
    for each in (begun, fresh):
        each.failed(LOST, taken=True)
    assert (begun.patient, fresh.patient) == (True, False)
