"""A whole Llama in 0.8 MB: random weights, a tokenizer trained on the spot, a chat template. vLLM runs it on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

_TEXT = [
    "You answer questions from the passages below and name the passage of each statement as [1] or [2].",
    "A question finds passages, the passages become a prompt, the engine writes an answer with citations.",
    "Kubernetes starts a pod on a node; a service gives the pods one address; a deployment replaces them.",
    "0 1 2 3 4 5 6 7 8 9 ! ? . , : ; ( ) [ ] { } / - _ + = * # the and of to in is that for it as was with",
]
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CONTROL = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def make_tiny_llama(folder: Path, *, context: int = 1024) -> Path:
    """A Hugging Face model folder. The same random weights each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(), bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,  # 4 heads of 32: the least that vLLM's CPU attention has a kernel for
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    # Random weights end an answer at random; tests say with max_tokens where it ends.
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    return folder


def train_tokenizer() -> object:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=_CONTROL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_TEXT, trainer)
    return tokenizer
