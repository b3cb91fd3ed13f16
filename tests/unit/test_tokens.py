"""Tokens are counted with the model's own tokenizer and chat template, loaded from a local folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from serving.errors import ConfigurationError, InvalidRequest
from serving.tokens import PLAIN_CHAT_TEMPLATE, content_text, load_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML


def make_model(folder: Path, template: str | None = CHATML, config: dict[str, Any] | None = None) -> str:
    """A byte-level BPE tokenizer trained on the spot, and a configuration, as a model folder holds them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<odd control>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the passages answer the question of the user"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    given = {"model_type": "llama", "max_position_embeddings": 1024} if config is None else config
    (folder / "config.json").write_text(json.dumps(given))
    return str(folder)


async def test_counts_are_those_of_the_models_own_tokenizer(tmp_path: Path) -> None:
    """Text without special tokens, messages with the chat template and the generation prompt."""
    model = make_model(tmp_path)
    tokens = await load_tokenizer(model)
    reference = PreTrainedTokenizerFast.from_pretrained(model)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the question?"}]
    ids = reference.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]
    assert tokens.count("the question of the user") == len(reference.encode("the question of the user"))
    assert tokens.count_messages(messages) == len(ids)
    assert tokens.count_messages(messages, tools=[{"type": "function"}]) > len(ids)
    assert (tokens.context, tokens.system_role, tokens.chat_template) == (1024, True, None)
    assert set(tokens.control_tokens) == {"<|im_start|>", "<|im_end|>", "<odd control>"}


async def test_engine_arguments_go_before_the_configuration(tmp_path: Path) -> None:
    """`max_model_len` is what vLLM will hold, whatever the model could."""
    model = make_model(tmp_path)
    assert (await load_tokenizer(model, {"max_model_len": 256})).context == 256
    with pytest.raises(ConfigurationError, match="tokenizer"):
        await load_tokenizer(model, {"tokenizer": str(tmp_path / "missing")})


async def test_a_model_without_a_chat_template_gets_the_plain_one(tmp_path: Path) -> None:
    """The template that the engine must then be given is on the counter."""
    tokens = await load_tokenizer(make_model(tmp_path, template=None))
    assert tokens.chat_template == PLAIN_CHAT_TEMPLATE
    assert tokens.render([{"role": "user", "content": "hi"}]) == "user: hi\nassistant:"


async def test_a_template_without_system_messages_is_noticed(tmp_path: Path) -> None:
    """So that the prompt puts its instructions into the user message; the refusal itself is the caller's error."""
    tokens = await load_tokenizer(make_model(tmp_path, template=NO_SYSTEM))
    assert not tokens.system_role
    with pytest.raises(InvalidRequest, match="no system") as refused:
        tokens.count_messages([{"role": "system", "content": "x"}])
    assert refused.value.param == "messages"


async def test_a_folder_without_a_model_says_what_to_do(tmp_path: Path) -> None:
    """No network is asked for a local folder."""
    with pytest.raises(ConfigurationError, match="local folder"):
        await load_tokenizer(str(tmp_path))


def test_content_may_come_in_parts() -> None:
    """Strings, parts and nothing: the three shapes OpenAI's clients send."""
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]
    assert [content_text(content) for content in ("a", None, parts)] == ["a", "", "a\nb"]
