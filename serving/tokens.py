"""Counting tokens with the LLM's own tokenizer and chat template. The only importer of `transformers`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from serving.errors import ConfigurationError, InvalidRequest

#: Counted for a model without a chat template of its own. vLLM refuses to chat with such a model until it is given a
#: template: hand it this one (`chat_template` of `ray.serve.llm`, or a file for `vllm serve --chat-template`).
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

#: Names under which model configurations keep the context length (as vLLM 0.29 looks for them).
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_BRACKETED = re.compile(r"[<\[｢].*[>\]｣]", re.DOTALL)


class TokenCounter(Protocol):
    """What the prompt must know of an LLM's tokenizer."""

    @property
    def context(self) -> int | None:
        """Tokens of prompt and answer together; None where the model's configuration does not say."""
        ...

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Texts that the tokenizer turns into control tokens even inside a message."""
        ...

    @property
    def system_role(self) -> bool:
        """Whether the chat template has a place for system messages."""
        ...

    def count(self, text: str) -> int: ...

    def count_messages(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> int:
        """By the chat template, with the generation prompt. Raises InvalidRequest if the template refuses them."""
        ...


class ModelTokens:
    """Implements `TokenCounter` on a Hugging Face tokenizer. Make it with `load_tokenizer`.

    `chat_template` is None for a model that has its own, and PLAIN_CHAT_TEMPLATE for one that has none: the engine
    must then be given the same.
    """

    def __init__(self, tokenizer: Any, context: int | None) -> None:
        self._tokenizer = tokenizer
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        self.chat_template = None if tokenizer.chat_template else PLAIN_CHAT_TEMPLATE
        self.context = context
        self.control_tokens = _control_tokens(tokenizer)
        self.system_role = self._has_system_role()

    def count(self, text: str) -> int:
        # The backend is called directly: it keeps no truncation state, so threads may share it.
        if self._fast is not None:
            return len(self._fast.encode(text, add_special_tokens=False))
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def count_messages(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> int:
        return self.count(self.render(messages, tools))

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The prompt text. Raises InvalidRequest if the template refuses the messages."""
        from jinja2 import TemplateError

        plain = [{**message, "content": content_text(message.get("content"))} for message in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    plain,
                    tools=list(tools) if tools else None,
                    chat_template=self.chat_template,
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            reason = f"The model's chat template does not take these messages: {error}"
            raise InvalidRequest(reason, param="messages") from error

    def _has_system_role(self) -> bool:
        mark = "the system's words"
        probe = [{"role": "system", "content": mark}, {"role": "user", "content": "hello"}]
        try:
            return mark in self.render(probe)
        except InvalidRequest:
            return False


async def load_tokenizer(model: str, engine_args: Mapping[str, Any] | None = None) -> ModelTokens:
    """The tokenizer of a Hugging Face id or a local folder (a folder needs no network), loaded in a thread.

    Of vLLM's engine arguments it heeds `tokenizer`, `tokenizer_revision`, `revision`, `trust_remote_code`, and
    `max_model_len`, which goes before the model's own context length. Raises ConfigurationError.
    """
    return await asyncio.to_thread(_load, model, engine_args or {})


def content_text(content: Any) -> str:
    """The text of a message's content: a string, a list of parts, or nothing."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = (part if isinstance(part, str) else part.get("text") or "" for part in content)
    return "\n".join(part for part in parts if part)


def _load(model: str, engine_args: Mapping[str, Any]) -> ModelTokens:
    from transformers import AutoConfig, AutoTokenizer

    source = str(engine_args.get("tokenizer") or model)
    trust = bool(engine_args.get("trust_remote_code", False))
    revision = engine_args.get("revision")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source,
            revision=engine_args.get("tokenizer_revision") or revision,
            trust_remote_code=trust,
            local_files_only=Path(source).is_dir(),
        )
        context = _given_length(engine_args)
        if context is None:
            config = AutoConfig.from_pretrained(
                model, revision=revision, trust_remote_code=trust, local_files_only=Path(model).is_dir()
            )
            context = _context_length(config)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"The tokenizer of model {model!r} cannot be loaded: {_first_line(error)} "
            "Give a local folder that holds config.json and the tokenizer's files, or the id of a model that is in "
            "the Hugging Face cache or can be downloaded from here (a gated one needs HF_TOKEN)."
        ) from error
    return ModelTokens(tokenizer, context)


def _given_length(engine_args: Mapping[str, Any]) -> int | None:
    given = engine_args.get("max_model_len")
    if given in (None, -1, "auto"):
        return None
    return int(given)


def _context_length(config: Any) -> int | None:
    """The smallest length the configuration names. Stretching by RoPE scaling is left out: too short is safe."""
    text_config = config.get_text_config()
    lengths = [value for name in _LENGTHS if isinstance(value := getattr(text_config, name, None), int)]
    return min(lengths, default=None)


def _control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Added tokens that are special or look like markup (`<think>`): longest first, for matching."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in added if token.special or _BRACKETED.fullmatch(token.content)}
    return tuple(sorted((text for text in texts if text.strip()), key=lambda text: (-len(text), text)))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
