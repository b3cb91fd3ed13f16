"""What clients send. Fields that OpenAI has and we do not know are accepted and ignored; inside `rag` nothing is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, FailFast, Field, Tag

from serving.settings import OnCold, SearchMode

#: The largest seed that vLLM takes (a signed 64-bit integer).
_INT64 = 2**63 - 1
_MAX_BIASES = 1024


def _text_or_list(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else None


def _few(value: Any) -> Any:
    """Megabytes of entries are refused by their number, before each is looked at."""
    if isinstance(value, dict) and len(value) > _MAX_BIASES:
        raise ValueError(f"More than {_MAX_BIASES} entries")
    return value


class _Request(BaseModel):
    """Strict: no number is read out of a string, no truth out of a number."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TextPart(_Request):
    """One part of a message. This server reads text only."""

    type: Literal["text"] = Field(description="Only text parts are read.")
    text: str


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Field(min_length=1, max_length=100), Tag("list")],
    Discriminator(
        _text_or_list,
        custom_error_type="content_type",
        custom_error_message="Input should be a string or a list of text parts",
    ),
]
Stop = Annotated[
    Annotated[str, Field(min_length=1, max_length=1000), Tag("text")]
    | Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=4, title="Sequences"), Tag("list")
    ],
    Discriminator(
        _text_or_list,
        custom_error_type="stop_type",
        custom_error_message="Input should be a string or a list of at most 4 strings",
    ),
]


class Message(_Request):
    """One message of a chat, in OpenAI's shape."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    def text(self) -> str:
        """The content as one string; text parts are joined by newlines."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content)


class RagOptions(_Strict):
    """How to retrieve; everything has a default. A misspelt field is an error, not a silent default."""

    collection: str | None = Field(None, min_length=1, max_length=256, description="Collection to ask.")
    top_k: int | None = Field(None, ge=1, description="Passages to give to the engine.")
    filter: dict[str, Any] | None = Field(None, description="Condition on the documents' metadata.")
    min_score: float | None = Field(None, ge=-1, le=1, description="Leave out passages below this cosine score.")
    mode: SearchMode | None = Field(None, description="How to search.")
    per_document: int | None = Field(None, ge=1, description="Passages of one document before others get their turn.")
    join_neighbours: bool | None = Field(None, description="Join retrieved chunks that touch in their document.")
    on_cold: OnCold | None = Field(None, description="What to do while the LLM has no ready replica.")


class StreamOptions(_Request):
    """OpenAI's."""

    include_usage: bool | None = Field(None, description="Send the token counts in the stream's last chunk.")


class GenerationFields(_Request):
    """What chat and text completions have in common."""

    model: str = Field(min_length=1, max_length=512, description="ENGINE, ENGINE@COLLECTION or NAME@none.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=2, description="0 is 0: the likeliest token every time.")
    top_p: float | None = Field(None, gt=0, le=1)
    stop: Stop | None = None
    seed: int | None = Field(None, ge=-_INT64, le=_INT64)
    n: Literal[1] | None = Field(None, description="Only one answer per request.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[str, float], BeforeValidator(_few)] | None = None
    min_tokens: int | None = Field(None, ge=0, le=2**31 - 1, description="vLLM's: generate at least so many.")
    ignore_eos: bool | None = Field(None, description="vLLM's: go on after the end-of-text token.")
    rag: RagOptions | None = Field(None, description="Retrieval; the openai client sends it through `extra_body`.")


class ChatRequest(GenerationFields):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], FailFast()] = Field(min_length=1, max_length=2000)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1, description="Wins over max_tokens.")
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = Field(None, max_length=32)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionRequest(GenerationFields):
    """Body of POST /v1/completions: one prompt."""

    prompt: Annotated[
        Annotated[str, Field(min_length=1), Tag("text")]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1, title="Prompts"), Tag("list")
        ],
        Discriminator(
            _text_or_list,
            custom_error_type="prompt_type",
            custom_error_message="Input should be one string, or a list of one string; token ids are not read",
        ),
    ]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] | None = Field(None, description="Not offered.")
    best_of: Literal[1] | None = Field(None, description="Only one answer per request.")
    suffix: Literal[""] | None = Field(None, description="Not offered.")

    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class EmbeddingsRequest(_Request):
    """Body of POST /v1/embeddings."""

    model: str = Field(min_length=1, max_length=512)
    input: Annotated[
        Annotated[str, Field(min_length=1), Tag("text")]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=2048, title="Texts"), Tag("list")
        ],
        Discriminator(
            _text_or_list,
            custom_error_type="input_type",
            custom_error_message="Input should be a string or a list of strings; token ids are not read",
        ),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, description="Only the model's own number.")

    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class SearchBody(_Strict):
    """Body of POST /v1/search."""

    query: str = Field(min_length=1, max_length=8192, description="Words or a question.")
    collection: str | None = Field(None, min_length=1, max_length=256, description="Default: by setting.")
    top_k: int | None = Field(None, ge=1, description="Results.")
    filter: dict[str, Any] | None = Field(None, description="Condition on the documents' metadata.")
    min_score: float | None = Field(None, ge=-1, le=1, description="Leave out results below this cosine score.")
    mode: SearchMode | None = Field(None, description="How to search.")
    per_document: int | None = Field(None, ge=1, description="Results of one document before others get their turn.")
